"""Training of convolutional networks on CIFAR, as the papers did it.

`_algorithms` has the optimizers, `_images` the augmentation, `_steps` what is compiled,
`_training` one training with its checkpoints; each study is a module of its own.
"""
