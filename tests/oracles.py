"""The papers' algorithms in plain NumPy float64, written from their pseudo-code.

A point is a dict of arrays (layers). An algorithm is made by a function of its
parameters, which returns ``step(x, gradients, rate) -> x`` with its memory inside:
`gradients` has one dict for each worker. Signs follow the papers, x -= ..., so an
error here is minus the library's, which holds what updates still owe.
"""

import numpy as np

# Operators on a layer.


def top(x, k):
    """Keeps the k entries of largest magnitude."""
    flat = x.ravel()
    out = np.zeros_like(flat)
    kept = np.argsort(-np.abs(flat), kind="stable")[:k]
    out[kept] = flat[kept]
    return out.reshape(x.shape)


def mean_sign(x):
    """The sign, scaled by the mean magnitude: (|x|_1 / d) sign(x)."""
    return np.abs(x).sum() / x.size * np.sign(x) if x.size else x


def mean_sign_of_bits(x):
    """The same in one bit a coordinate, which counts 0 as positive."""
    return np.abs(x).sum() / x.size * np.where(x >= 0, 1, -1) if x.size else x


def mean_sign_blocks(x, block):
    """The same with a scale for each block of the flattened layer."""
    flat = x.ravel()
    parts = [mean_sign(flat[i:i + block]) for i in range(0, x.size, block)]
    return np.concatenate(parts).reshape(x.shape)


def best_rank(x, rank):
    """The best approximation of that rank; all but the last axis are rows."""
    if x.ndim < 2:
        return x
    u, s, vt = np.linalg.svd(x.reshape(-1, x.shape[-1]), full_matrices=False)
    s[rank:] = 0
    return (u * s @ vt).reshape(x.shape)


def round_to(x, bits):
    """Rounds to so many significant bits, ties to even; no limits of range."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(fraction * 2.0**bits) / 2.0**bits, exponent)


# Operators on all layers.


def each(operator):
    """Applies an operator layer by layer."""
    return lambda p: {name: operator(x) for name, x in p.items()}


def whole(operator):
    """Applies an operator to all layers as one vector, in the order of their names."""

    def apply(p):
        names = sorted(p)
        flat = operator(np.concatenate([p[n].ravel() for n in names]))
        ends = np.cumsum([p[n].size for n in names])
        return {n: part.reshape(p[n].shape)
                for n, part in zip(names, np.split(flat, ends[:-1]), strict=True)}

    return apply


def average(trees):
    """The mean over the workers."""
    return {n: sum(t[n] for t in trees) / len(trees) for n in trees[0]}


# K: Karimireddy et al. B: Bernstein et al. S: Safaryan and Richtarik.


def sign_sgd(decay=0.0):
    """B Algorithm 1, S Algorithm 1 option 1; with decoupled weight decay."""

    def step(x, gradients, rate):
        (g,) = gradients
        return {n: x[n] - rate * (np.sign(g[n]) + decay * x[n]) for n in x}

    return step


def sign_sgd_option_2(loss):
    """S Algorithm 1 option 2: the better of the two points."""

    def step(x, gradients, rate):
        (g,) = gradients
        new = {n: x[n] - rate * np.sign(g[n]) for n in x}
        return new if loss(new) < loss(x) else x

    return step


def majority_vote(threshold=0.0, quorum=0):
    """B Algorithm 3, S Algorithm 2; abstentions and quorum as in B section 6."""

    def step(x, gradients, rate):
        out = {}
        for n in x:
            votes = [np.where(np.abs(g[n]) < threshold, 0, np.sign(g[n]))
                     for g in gradients]
            total = np.sum(votes, axis=0)
            out[n] = x[n] - rate * np.where(np.abs(total) < quorum, 0, np.sign(total))
        return out

    return step


def vote_sum():
    """B section 4, the good scheme: what comes back is the sum of the signs."""

    def step(x, gradients, rate):
        return {n: x[n] - rate * sum(np.sign(g[n]) for g in gradients) for n in x}

    return step


def signum(beta, warmup=0, heavy_ball=False, decay=0.0):
    """B Algorithm 2, with the warm-up of Theorem 3; by vote if there are workers.

    K's SIGNSGDM is heavy ball. Weight decay is decoupled.
    """
    m, t = None, 0

    def step(x, gradients, rate):
        nonlocal m, t
        if m is None:
            m = [{n: np.zeros_like(x[n]) for n in x} for _ in gradients]
        part = 1.0 if heavy_ball else 1.0 - beta
        m = [{n: beta * mi[n] + part * g[n] for n in x}
             for mi, g in zip(m, gradients, strict=True)]
        voters = gradients if t < warmup else m
        t += 1
        return {
            n: x[n] - rate * (np.sign(sum(np.sign(v[n]) for v in voters))
                              + decay * x[n])
            for n in x
        }

    return step


def compressed_sgd(compress, decay=0.0):
    """K section 6, scaled signSGD, for any compressor; the mean over workers.

    Weight decay is coupled, as in K's experiments.
    """

    def step(x, gradients, rate):
        sent = average([compress({n: g[n] + decay * x[n] for n in x})
                        for g in gradients])
        return {n: x[n] - rate * sent[n] for n in x}

    return step


class EfSgd:
    """K Algorithm 2 (Algorithm 1 with the scaled sign), errors kept for inspection.

    Each worker has an error of its own, and the mean of what they send is applied.
    Coupled weight decay and heavy-ball momentum come first, as in K's experiments.
    """

    def __init__(self, compress, decay=1.0, momentum=0.0, weight_decay=0.0):
        self.compress, self.decay = compress, decay
        self.momentum, self.weight_decay = momentum, weight_decay
        self.e = self.m = None

    def __call__(self, x, gradients, rate):
        if self.e is None:
            zeros = {n: np.zeros_like(x[n]) for n in x}
            self.e, self.m = [zeros] * len(gradients), [zeros] * len(gradients)
        self.m = [
            {n: self.momentum * m[n] + g[n] + self.weight_decay * x[n] for n in x}
            for m, g in zip(self.m, gradients, strict=True)
        ]
        p = [{n: rate * m[n] + self.decay * e[n] for n in x}
             for m, e in zip(self.m, self.e, strict=True)]
        sent = [self.compress(pi) for pi in p]
        self.e = [{n: pi[n] - d[n] for n in x} for pi, d in zip(p, sent, strict=True)]
        applied = average(sent)
        return {n: x[n] - applied[n] for n in x}


class EfSgdGradientUnits:
    """Zheng et al.'s form: the error in gradient units, rescaled by old/new rate.

    At rate 0 nothing happens; the ratio is that of the last two other rates.
    """

    def __init__(self, compress):
        self.compress, self.e, self.last = compress, None, None

    def __call__(self, x, gradients, rate):
        (g,) = gradients
        if rate == 0:
            return x
        if self.e is None:
            self.e, self.last = {n: np.zeros_like(x[n]) for n in x}, rate
        p = {n: g[n] + self.last / rate * self.e[n] for n in x}
        sent = self.compress(p)
        self.e, self.last = {n: p[n] - sent[n] for n in x}, rate
        return {n: x[n] - rate * sent[n] for n in x}


class EfTwoWay:
    """Zheng et al. Algorithm 2, with every worker as the server of one shard.

    Layers are flattened and cut into a row for each worker, with zeros at the end; the
    operators treat each row alone. Worker i keeps ``e[i]``, of the shapes of layers;
    the server of row i keeps ``s[n][i]`` of layer n. Without memory both stay zero.
    """

    def __init__(self, compress, server=None, decay=1.0, memory=True):
        self.compress, self.server = compress, server or compress
        self.decay, self.memory = decay, memory
        self.e = self.s = None

    def __call__(self, x, gradients, rate):
        count = len(gradients)
        if self.e is None:
            self.e = [{n: np.zeros_like(x[n]) for n in x} for _ in gradients]
            self.s = {n: np.zeros_like(cut(x[n], count)) for n in x}
        p = [{n: rate * g[n] + self.decay * e[n] for n in x}
             for g, e in zip(gradients, self.e, strict=True)]
        sent = [{n: by_row(self.compress, cut(pi[n], count)) for n in x} for pi in p]
        q = {n: sum(d[n] for d in sent) / count + self.decay * self.s[n] for n in x}
        answer = {n: by_row(self.server, q[n]) for n in x}
        if self.memory:
            self.e = [{n: pi[n] - joined(d[n], x[n]) for n in x}
                      for pi, d in zip(p, sent, strict=True)]
            self.s = {n: q[n] - answer[n] for n in x}
        return {n: x[n] - joined(answer[n], x[n]) for n in x}


def cut(x, rows):
    """A flattened layer as so many rows of equal length, with zeros at the end."""
    length = -(-x.size // rows)
    return np.pad(x.ravel(), (0, rows * length - x.size)).reshape(rows, length)


def joined(rows, like):
    """What `cut` made rows of."""
    return rows.ravel()[:like.size].reshape(like.shape)


def by_row(operator, rows):
    """Applies an operator to each row."""
    return np.stack([operator(row) for row in rows])


def run(step, x, gradient, rates, workers=1):
    """Returns the points after each step; ``gradient(x, t, worker)`` is a dict."""
    points = []
    for t, rate in enumerate(rates):
        x = step(x, [gradient(x, t, i) for i in range(workers)], float(rate))
        points.append(x)
    return points
