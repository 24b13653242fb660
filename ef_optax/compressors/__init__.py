"""What is sent: one file for each way to make a gradient smaller."""

from ef_optax.compressors._adapt import compressor_of
from ef_optax.compressors._base import Compressor, Template
from ef_optax.compressors._low_rank import k_pca
from ef_optax.compressors._quantize import cast, identity, stochastic_sign
from ef_optax.compressors._sign import scaled_sign, sign
from ef_optax.compressors._sparsify import random_k, top_k
