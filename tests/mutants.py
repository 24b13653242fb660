"""Mistakes put into the library on purpose, each of which some test must notice.

    python tests/mutants.py [PATTERN ...] [--jobs 2] [--list]

The list is ours: the mistakes that a maintainer could make. Operators of a library, at
every one of 3,000 statements and with tests that compile, would run for days.

Each mutant is put into a copy of the library, and the tests that it names run there.
They must fail. All of them first run without a mutant, where they must pass. A text
that is not once in its file, or a name of no test, is an error: the list follows the
code. The exit status is 1 if a mutant survives.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
          "-m", "not slow and not demos and not package")
LIMIT = 120  # seconds for the tests of one mutant
SURVIVED, BAD = "SURVIVED", "ERROR"


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
      file: where it is made, in ef_optax, without its ending.
      before: a text that is there once.
      after: what stands there instead.
      why: what it breaks.
      tests: who should notice: file::part of the names of tests, without "test_"; or
        the whole of a file.
    """

    file: str
    before: str
    after: str
    why: str
    tests: str


M = Mutant
MUTANTS = [
    # Keys.
    M("_keys", "jax.random.fold_in(jax.random.fold_in(state.key, state.count), leaf)",
      "jax.random.fold_in(state.key, state.count)",
      "all leaves draw alike",
      "constants::random_k_draws vote::random_ties_are_common"),
    M("_keys", "jax.random.fold_in(jax.random.fold_in(state.key, state.count), leaf)",
      "jax.random.fold_in(state.key, leaf)",
      "all steps draw alike", "constants::random_k_draws vote::random_ties_are_common"),
    M("_keys", "return key if index is None else jax.random.fold_in(key, index)",
      "return key",
      "all workers draw alike", "parity::workers_draw vote::random_zeros"),
    M("_keys", "count=optax.safe_increment(state.count)", "count=state.count",
      "the count stands still", "constants::random_k_draws vote::random_ties_are"),
    M("_keys", "return jnp.array(key)", "return key",
      "a donated state takes the caller's raw key with it",
      "contract_objects::key_of_the_caller"),

    # Numbers.
    M("_numerics", "return jnp.promote_types(dtype, jnp.float32)",
      "return jnp.dtype(dtype)",
      "16-bit floats are summed in 16 bits", "feedback::16_bit accumulate::float32"),
    M("_numerics", "jnp.copysign(largest, x)", "largest",
      "what is far below 0 becomes the largest number",
      "edges::far_below"),
    M("_numerics", "within(jnp.sum(jnp.abs(x.astype(wide(x.dtype)))))",
      "within(jnp.sum(x.astype(wide(x.dtype))))",
      "the l1-norm without the magnitude", "constants::lemma_8"),
    M("_numerics", "within(jnp.sum(jnp.abs(x.astype(wide(x.dtype)))))",
      "jnp.sum(jnp.abs(x.astype(wide(x.dtype))))",
      "the l1-norm of large numbers is infinite", "edges::scales"),
    M("_numerics", "within(jnp.sum(jnp.abs(x.astype(wide(x.dtype)))))",
      "within(jnp.sum(jnp.abs(x)))",
      "the l1-norm of float16 stops at 65504", "edges::scales"),
    M("_numerics", "jnp.square(x / up / rest))) * up * rest", "jnp.square(x)))",
      "squares of small and large numbers are 0 or infinite", "edges::norm"),
    M("_numerics", "max(workers * x.size, 1) ** 2", "max(workers, 1) ** 2",
      "a sum over a leaf may overflow", "range::near feedback::overflow"),
    M("_numerics", "max(workers * x.size, 1) ** 2",
      "max(x.size * bool(workers), 1) ** 2",
      "a sum over the workers may overflow", "edges::over_the_workers"),
    M("_numerics", "return n if n is o else jnp.where(finite, n, o)",
      "return n if n is o else jnp.where(finite, o, n)",
      "old and new are swapped", "edges::bad_leaf"),
    M("_numerics", "jnp.where(finite, x, jnp.zeros_like(x))", "x * finite",
      "0 times NaN is NaN", "skip_nonfinite::one_leaf skip_nonfinite::never_been"),
    M("_numerics", "jnp.where(finite, x, jnp.full_like(x, jnp.nan))",
      "x",
      "the rest of a step that is not finite is as it was", "edges::bad_leaf"),
    M("_numerics", "keep_if(finite, new_state, state)", "new_state",
      "a step that is not finite moves the state", "edges::bad_leaf"),
    M("_numerics", "jax.dtypes.canonicalize_dtype(dtype) if of_numpy else dtype",
      "dtype", "NumPy's float64 warns", "bad_use::float64"),
    M("_numerics", "jnp.where(finite, 0, 1).astype(dtype)",
      "jnp.zeros((), dtype)", "no message carries a flag",
      "edges::one_worker_is_bad"),
    M("_cpu", "~((x.reshape(-1) <= m) & (x.reshape(-1) >= -m))",
      "(x.reshape(-1) > m) | (x.reshape(-1) < -m)",
      "no NaN is found on a CPU", "edges::bad_leaf"),
    M("_cpu", "~(jnp.abs(x) <= m)", "(jnp.abs(x) > m)",
      "no NaN is found elsewhere", "edges::elsewhere"),

    # Bits.
    M("_packing", "return -(-size // 8)", "return size // 8 + 1",
      "a byte too many", "compressors::bits_survive"),
    M("_packing", "if size <= jnp.iinfo(dtype).max + 1:",
      "if size <= jnp.iinfo(dtype).max:",
      "256 positions in 16 bits", "compressors::indices"),
    M("_packing", "if size <= jnp.iinfo(dtype).max + 1:",
      "if size <= jnp.iinfo(dtype).max + 2:",
      "257 positions in 8 bits", "compressors::indices"),

    # Compressors.
    M("compressors/_adapt", "if _depends_on_collective(step, updates, state):",
      "if False:",
      "error feedback around an exchange", "bad_use::around_an_exchange"),
    M("compressors/_adapt", "needed |= {", "needed = {",
      "an exchange of another leaf is not seen",
      "edges::exchange_of"),
    M("compressors/_adapt", "jaxpr.jaxpr.outvars[:len(jax.tree.leaves(shapes[0]))]",
      "jaxpr.jaxpr.outvars",
      "what only looks at the others is refused", "edges::exchange_of"),
    M("compressors/_base", "guard(together, all_finite(updates), updates, state)",
      "guard(together, all_finite(()), updates, state)",
      "a compressor looks at no NaN", "edges::bad_leaf"),
    M("compressors/_base", "return _damped(self, self._variance)", "return self",
      "an unbiased compressor is not damped", "feedback::ones_own"),
    M("compressors/_base", "1.0 / (1.0 + variance(params))", "1.0 / variance(params)",
      "damped by 1/ω", "feedback::ones_own"),
    M("compressors/_base",
      "self._contraction is not None or self._variance is not None",
      "self._contraction is not None",
      "an unbiased compressor warns", "feedback::warns"),
    M("compressors/_base", "lax.fori_loop(1, size, add, total)",
      "lax.fori_loop(0, size, add, total)",
      "of many workers the first counts twice", "edges::averaged"),
    M("compressors/_base", "x.reshape(shape).astype(dtype)", "x.reshape(shape)",
      "16-bit leaves come back in 32", "edges::decoded"),

    M("compressors/_sign",
      "within(sum(map(abs_sum, leaves), jnp.zeros((), jnp.float32)))",
      "sum(map(abs_sum, leaves), jnp.zeros((), jnp.float32))",
      'the total of per="tree" is infinite', "edges::scales"),
    M("compressors/_sign", "mean = total / max(sum(x.size for x in leaves), 1)",
      "mean = total / max(*(x.size for x in leaves), 1)",
      'per="tree" divides by the largest leaf', "edges::scales"),
    M("compressors/_sign", "within(jnp.sum(rows, axis=1))", "jnp.sum(rows, axis=1)",
      "the total of a block is infinite", "edges::scales"),
    M("compressors/_sign",
      "jnp.minimum(block, x.size - block * jnp.arange(rows.shape[0]))",
      "jnp.full(rows.shape[:1], block)",
      "a short last block is divided by the length of a whole one",
      "compressors::short_last"),
    M("compressors/_sign", "jnp.abs(x.astype(wide(x.dtype))).reshape(-1)",
      "x.astype(wide(x.dtype)).reshape(-1)",
      "the mean of a block without the magnitude", "compressors::short_last"),
    M("compressors/_sign", "return 1.0 / min(per, max(sizes(params)))",
      "return 1.0 / per",
      "the contraction of blocks longer than a leaf", "edges::contraction"),
    M("compressors/_sign", 'zero == "zero" or (zero is None and workers.is_one)',
      'zero == "zero" or zero is None',
      "two bits where one is enough", "compressors::crosses"),
    M("compressors/_sign", "return [(x >= 0, None) for x in leaves]",
      "return [(x > 0, None) for x in leaves]",
      "0 is negative", "compressors::signs_of_zero compressors::alphabets"),
    M("compressors/_sign", "index = None if workers.is_one else workers.index",
      "index = None",
      "all workers draw the same signs of 0", "parity::workers_draw"),
    M("compressors/_sign", "leaf_key(state, i, index)", "leaf_key(state, 0, index)",
      "all leaves draw the same signs of 0", "edges::fair"),
    M("compressors/_sign",
      "return next_keys(state) if isinstance(state, KeyState) else state",
      "return state", "all steps draw the same signs of 0", "edges::fair"),
    M("compressors/_sign", 'means[0 if sent_scale == "tree" else i]', "means[0]",
      "the scale of another leaf", "edges::decoded"),

    M("compressors/_quantize", "float(info.min), float(info.max))",
      "None, float(info.max))",
      "large negative numbers become infinite", "compressors::cast"),
    M("compressors/_quantize", "jnp.clip(x.astype(wide(x.dtype)),", "jnp.clip(x,",
      "the limit is rounded beyond itself", "compressors::cast"),
    M("compressors/_quantize", "additive=target.itemsize >= 4",
      "additive=target.itemsize >= 2",
      "16-bit messages are summed in 16 bits", "edges::16_bit"),
    M("compressors/_quantize", "messages.astype(dtype), axis=0", "messages, axis=0",
      "gathered 16-bit messages are summed in 16 bits", "edges::16_bit"),
    M("compressors/_quantize", "1.0 - (float(info.eps) / 2) ** 2",
      "1.0 - float(info.eps) ** 2",
      "the contraction of a cast", "constants::contraction"),
    M("compressors/_quantize", "index = None if workers.is_one else workers.index",
      "index = None", "all workers draw the same signs", "parity::workers_draw"),
    M("compressors/_quantize", "leaf_key(state, i, index)", "leaf_key(state, 0, index)",
      "all leaves draw the same signs", "edges::fair"),
    M("compressors/_quantize", "norm.dtype, -1.0, 1.0", "norm.dtype, 0.0, 1.0",
      "the random sign has another mean", "constants::unbiased"),
    M("compressors/_quantize", "norm / max(x.size, 1) if damped else norm", "norm",
      "error feedback uses the random sign undamped", "feedback::unbiased"),
    M("compressors/_quantize", "max(sizes(params)) - 1.0", "max(sizes(params))",
      "the variance of the random sign", "constants::unbiased"),
    M("compressors/_quantize", "Template.of(updates), next_keys(state)",
      "Template.of(updates), state",
      "all steps draw the same signs", "edges::fair"),

    M("compressors/_sparsify", "math.ceil(fraction * size)", "int(fraction * size)",
      "k is rounded down", "compressors::k_is_the_fraction"),
    M("compressors/_sparsify", "k = max(1, math.ceil(fraction * size))",
      "k = math.ceil(fraction * size) + 1",
      "k is one too many", "compressors::k_is_the_fraction"),
    M("compressors/_sparsify", "Fraction(str(fraction))", "Fraction(fraction)",
      "0.07 of 100 is 8", "compressors::k_is_the_fraction"),
    M("compressors/_sparsify", "_select.largest(flat, kept, _select.magnitude_bits)",
      "jax.lax.top_k(flat, kept)[1]",
      "the largest, not the largest in magnitude", "edges::magnitude"),
    M("compressors/_sparsify", "].add(values.reshape(-1)", "].set(values.reshape(-1)",
      "of equal positions of two workers one is lost", "edges::averaged"),
    M("compressors/_sparsify", "jax.random.uniform(leaf_key(state, i)",
      "jax.random.uniform(leaf_key(state, 0)",
      "all leaves have the same mask", "constants::random_k_draws"),
    M("compressors/_sparsify", "tuple(indices)), next_keys(state)",
      "tuple(indices)), state",
      "all steps have the same mask", "constants::random_k_draws"),
    M("compressors/_sparsify", "1 / smallest_part(params) - 1",
      "1 / smallest_part(params)",
      "the variance of random_k", "constants::unbiased"),
    M("compressors/_sparsify",
      "random_k(k, fraction, key, scaled=False) if scaled else None", "None",
      "leaves of other sizes are damped by the worst leaf's ω", "feedback::unbiased"),
    M("compressors/_sparsify", "return _kept(total, k, part) / total",
      "return _kept(total, k, part) / max(sizes(params))",
      'the contraction of per="tree"', "edges::contraction"),

    M("compressors/_low_rank", "rank * sum(", "rank * max(",
      "factors that are larger than the product", "compressors::messages"),
    M("compressors/_low_rank", "jnp.moveaxis(left, 0, 1).reshape(left.shape[1], -1)",
      "left.reshape(left.shape[1], -1)",
      "the factors of workers are mixed up", "edges::averaged"),
    M("compressors/_low_rank", "math.prod(shape[:-1]), shape[-1]",
      "shape[0], math.prod(shape[1:])",
      "a kernel is the matrix of its first axis", "compressors::k_pca"),

    # Feedback.
    M("feedback/_error_feedback", "nan_unless(out.finite, memory.applied(out.mean))",
      "memory.applied(nan_unless(out.finite, out.mean))",
      "a NaN at rate 0 becomes 0", "range::nan_at"),
    M("feedback/_error_feedback", "finite = workers.all_summable(p)",
      "finite = workers.all_summable(updates)",
      "update and error together may overflow", "edges::corrected"),
    M("feedback/_error_feedback",
      "return u, jnp.asarray(self.decay, dtype) * e", "return u, e",
      "decay is forgotten", "feedback::without_memory"),
    M("feedback/_error_feedback", "u, e = self._terms(u, old)",
      "u, e = u.astype(self._terms(u, old)[0].dtype), old.astype(old.dtype)",
      "decay is forgotten in what is kept",
      "two_way::every_step oracles::algorithms_1"),
    M("feedback/_error_feedback", "u, c = eta * u, eta * c", "u, c = u, eta * c",
      "the rate is forgotten in what came in", "feedback::bit_for_bit"),
    M("feedback/_error_feedback",
      "jnp.clip(e / jnp.where(eta == 0, 1, eta), -most, most)",
      "e / jnp.where(eta == 0, 1, eta)",
      "the error by a tiny rate overflows", "range::tiny_rate"),
    M("feedback/_error_feedback",
      "taken = taken & (jnp.asarray(self.rate) != 0)", "taken = taken & True",
      "an error decays at rate 0", "edges::rate_0"),
    M("feedback/_error_feedback", "left = within(left, old.dtype)", "pass",
      "an error in 16 bits may be infinite", "range::16_bits"),
    M("feedback/_error_feedback",
      "return jnp.where(taken, left.astype(old.dtype), old)",
      "return left.astype(old.dtype)",
      "a step that is not taken changes the error", "edges::exempt"),
    M("feedback/_error_feedback", "return jnp.where(taken, left, u + e)", "return left",
      "the same with one worker", "feedback::leaves_no_trace"),
    M("feedback/_error_feedback", "jnp.where(off, jnp.zeros_like(x), x)", "x",
      "something is applied at rate 0", "edges::rate_0"),
    M("feedback/_error_feedback", "zeroed=workers.is_one", "zeroed=True",
      "a NaN enters the error of a worker", "edges::exempt"),
    M("feedback/_error_feedback", "count=optax.safe_increment(state.count)",
      "count=keep_if(out.finite, optax.safe_increment(state.count), state.count)",
      "the schedule here falls behind the one that follows", "two_way::one_bad"),
    M("feedback/_error_feedback",
      "keep_if(out.finite, out.compressor_state, state.compressor)",
      "out.compressor_state",
      "a NaN moves the key", "two_way::one_bad"),
    M("feedback/_error_feedback", "accumulator_dtype or wide(leaf_dtype(x))",
      "accumulator_dtype or leaf_dtype(x)",
      "errors in 16 bits", "feedback::16_bit"),
    M("feedback/_error_feedback",
      "return all_reduce() if compressor.additive else gather()",
      "return gather()",
      "messages that add are gathered", "wire::fixed_few"),
    M("feedback/_error_feedback", "if not compressor.contracts:", "if False:",
      "an error that may grow does not warn", "feedback::warns"),
    M("feedback/_error_feedback", "return compressor.contractive", "return compressor",
      "an unbiased compressor is used undamped", "feedback::unbiased"),
    M("feedback/_compress",
      "keep_if(out.finite, out.compressor_state, state.compressor)",
      "out.compressor_state",
      "a NaN moves the key", "edges::one_worker_is_bad"),
    M("feedback/_compress", "nan_unless(out.finite, out.mean)", "out.mean",
      "a NaN of one worker is a sign of all", "edges::one_worker_is_bad"),
    M("feedback/_compress", "finite = workers.all_summable(updates)",
      "finite = workers.all_finite(updates)",
      "a mean that overflows is infinite", "range::mean_of"),
    M("feedback/_compress", "updates = widen(dtypes)", "updates = dtypes",
      "16-bit updates are summed in 16 bits", "workers::masked"),
    M("feedback/_exempt", "lambda m: not m, mask_of(tree)",
      "lambda m: m, mask_of(tree)",
      "the mask is inverted", "workers::exempt_leaves_skip"),
    M("feedback/_exempt", "nan_unless(finite, updates), state.inner",
      "updates, state.inner",
      "the rest does not know of a NaN in an exempt leaf", "edges::exempt"),
    M("feedback/_exempt", "mean = nan_unless(bad == 0, mean)", "mean = (mean)",
      "exempt leaves do not know of a NaN in the rest", "edges::exempt"),
    M("feedback/_exempt", "workers.mean((skipped,", "workers.sum((skipped,",
      "exempt leaves are summed", "workers::exempt_leaves_skip"),
    M("feedback/_exempt", "_refuse_chain(state.inner_state)", "pass",
      "exempt leaves skip a learning rate", "workers::whole_optimizer"),

    # Exchange.
    M("exchange/_one_way", "lambda x: x / workers.size", "lambda x: x",
      "a sum for the mean", "edges::averaged"),
    M("exchange/_one_way", "if not compressor.additive:", "if False:",
      "bits are summed", "bad_input::refused"),
    M("exchange/_one_way", "return compressor.decode(total, shared), flags == 0",
      "return compressor.decode(total, shared), finite",
      "each worker has its own flag, all_reduce", "edges::one_worker_is_bad"),
    M("exchange/_one_way", "jnp.all(flags == 0)", "finite",
      "each worker has its own flag, gather", "edges::one_worker_is_bad"),
    M("exchange/_one_way", "jnp.all(flags == 0)", "jnp.any(flags == 0)",
      "one finite worker is enough", "edges::one_worker_is_bad"),
    M("exchange/_one_way", "own=compressor.decode(message, shared)", "own=total",
      "a worker takes the sum of all for its own message", "edges::own_message"),
    M("exchange/_two_way", "else compressor.contractive", "else compressor",
      "the server is not damped by 1/(1+ω)", "edges::server"),
    M("exchange/_two_way", "lambda x: x / size, total", "lambda x: x, total",
      "a sum for the mean", "two_way::plain_mean"),
    M("exchange/_two_way",
      "server, finite = _server(compressor or of_workers, memory), jnp.all(flags == 0)",
      "server = _server(compressor or of_workers, memory)",
      "a server looks at its own flag only", "two_way::one_bad"),
    M("exchange/_two_way",
      "shard = zero_unless(finite, jax.tree.map(lambda x: x / size, total))",
      "shard = jax.tree.map(lambda x: x / size, total)",
      "the mean of a bad step enters the server's error", "two_way::one_bad"),
    M("exchange/_two_way", "(answer, jnp.max(flags))", "(answer, jnp.min(flags))",
      "one finite worker is enough", "two_way::one_bad"),
    M("exchange/_two_way", "keep_if(finite, server_state, state.compressor)",
      "server_state", "a NaN moves the server's key", "two_way::one_bad"),
    M("exchange/_two_way", "_own_keys(server.init(rows))", "server.init(rows)",
      "the server draws what a worker drew", "edges::server"),
    M("exchange/_two_way", "compressor_state, axis.shard(number)",
      "compressor_state, axis",
      "all rows of a worker draw alike", "two_way::rows_and_servers"),
    M("exchange/_two_way", "corrected, state.compressor, axis",
      "corrected, state.compressor, Workers(None)",
      "all servers draw alike", "edges::server"),
    M("exchange/_two_way", "size * row.size - size_of(x)", "size * row.size",
      "the padding that resizing needs", "two_way::every_step"),
    M("exchange/_two_way", "(-(-size_of(x) // size),)", "(size_of(x) // size + 1,)",
      "a row is one too long", "two_way::every_step"),
    M("exchange/_two_way", "_check_shards(rows, state.error, size)", "pass",
      "a state of other workers is not named", "two_way::other_workers"),
    M("exchange/_two_way", "and not compressor.contracts:", "and False:",
      "a server's error may grow without a warning", "two_way::warns"),
    M("exchange/_two_way", "if not each.splittable:", "if False:",
      "shards of what cannot be cut", "two_way::cannot_be_cut"),
    M("exchange/_two_way", "shard, state.error, sent, zeroed=True",
      "corrected, state.error, sent, zeroed=True",
      "the server's error counts twice", "two_way::every_step"),

    # Votes.
    M("vote/_majority", "jnp.where(jnp.abs(g) < threshold, 0, vote)",
      "jnp.where(jnp.abs(g) <= threshold, 0, vote)",
      "abstains at the threshold", "vote::every_outcome"),
    M("vote/_majority", "jnp.where(jnp.abs(g) < threshold, 0, vote)",
      "jnp.where(g < threshold, 0, vote)",
      "negative gradients abstain", "vote::every_outcome"),
    M("vote/_majority", "jnp.where(jnp.abs(total) < quorum, 0, result)",
      "jnp.where(jnp.abs(total) <= quorum, 0, result)",
      "the quorum is not enough", "vote::every_outcome"),
    M("vote/_majority", "jnp.where(jnp.abs(total) < quorum, 0, result)",
      "jnp.where(total < quorum, 0, result)",
      "no negative sum has a quorum", "vote::every_outcome"),
    M("vote/_majority", "leaf_key(state, leaf, workers.index), 0)",
      "leaf_key(state, leaf), 0)",
      "all workers draw the same votes", "vote::random_zeros_are"),
    M("vote/_majority", "jax.random.fold_in(leaf_key(state, leaf), 0x7FFFFFFF)",
      "jax.random.fold_in(leaf_key(state, leaf, 0), 0)",
      "a tie is what the first worker drew", "vote::independent"),
    M("vote/_majority", "workers.size <= 127", "workers.size <= 128",
      "128 votes overflow int8", "vote::many_workers"),
    M("vote/_majority", "return totals, flags == 0", "return totals, finite",
      "each worker has its own flag", "vote::non_finite"),
    M("vote/_majority", "keep_if(finite, following, state)", "following",
      "a NaN moves the key", "vote::non_finite"),
    M("vote/_majority", "needed > workers.size:", "needed >= workers.size:",
      "unanimity is refused", "vote::quorum_of_more"),
    M("vote/_majority", 'zero == "abstain" or concrete(threshold) != 0',
      'zero == "abstain"',
      "no bit says that a worker is unsure", "packed_vote::every_rule"),
    M("vote/_packed", "workers % 2 == 0)", "workers % 2 == 1)",
      "no bit says that a vote is even", "packed_vote::two_collectives"),
    M("vote/_packed", "if concrete(self.quorum) != 0:",
      "if concrete(self.quorum) is None:",
      "no bit says that a quorum was missed", "packed_vote::every_rule"),
    M("vote/_packed", "bound = jnp.ceil((size", "bound = jnp.floor((size",
      "the threshold is off by one", "packed_vote::every_rule"),
    M("vote/_packed", "no = ~sum_at_least(1 - needed)", "no = ~sum_at_least(-needed)",
      "a quorum of one more for no", "packed_vote::every_rule"),
    M("vote/_packed", "jnp.float32)), 1, size + 1)", "jnp.float32)), 1, size)",
      "a traced quorum of more than all workers moves something",
      "packed_vote::traced"),
    M("vote/_packed", "jnp.ceil(jnp.asarray(rule.quorum, jnp.float32)), 1",
      "jnp.floor(jnp.asarray(rule.quorum, jnp.float32)), 1",
      "a quorum of 1.5 is 1", "packed_vote::every_rule packed_vote::traced"),
    M("vote/_packed",
      "tied = jnp.where(jnp.asarray(rule.quorum) > 0, jnp.zeros_like(tied), tied)",
      "pass", "ties move a coordinate although there is a quorum",
      "packed_vote::traced"),
    M("vote/_packed", "[yes, yes | ~moved]", "[yes, yes & ~moved]",
      "an abstention is a no", "packed_vote::every_rule"),
    M("vote/_packed", "count(planes, 2 * planes.shape[0])", "count(planes, size)",
      "a digit is missing", "packed_vote::every_rule"),
    M("vote/_packed", "lax.dynamic_index_in_dim(fair, workers.index, keepdims=False)",
      "fair[0]", "a tie is that of another coordinate", "packed_vote::steps_draw"),
    M("vote/_packed", "no | (tied & ~mine)", "no",
      "a random tie is no no where a bit says that it moves", "packed_vote::traced"),
    M("vote/_packed", "~jnp.isfinite(g)", "jnp.isnan(g)",
      "an infinity votes", "edges::infinity"),
    M("vote/_packed", "finite = finite & fine", "finite = fine",
      "a NaN in a leaf that is split otherwise", "edges::kinds"),
    M("vote/_packed", "jnp.max(flags)", "jnp.min(flags)",
      "one finite worker is enough", "packed_vote::non_finite packed_vote::flags"),
    M("vote/_tally", "jnp.maximum(jnp.asarray(bound, jnp.int32), 0)",
      "jnp.asarray(bound, jnp.int32)",
      "a bound below 0", "tally::numpys"),
    M("vote/_tally", "if planes.shape[0] > _UNROLL:\n        return lax.scan(",
      "if planes.shape[0] > _UNROLL:\n        planes = planes[1:]"
      "\n        return lax.scan(",
      "of many votes one is not counted", "tally::numpys"),

    # Workers.
    M("workers/_workers", "_warn_of_forgotten_axis(name, updates)\n        else:",
      "pass\n        else:",
      "a forgotten axis goes unsaid", "bad_use::axis_forgotten"),
    M("workers/_workers", "self._refuse_summed(name, updates)", "pass",
      "gradients that were already summed", "workers::already_summed"),
    M("workers/_workers", "if typed - varying_axes(x)]",
      "if typed and not typed & varying_axes(x)]",
      "gradients that were summed over one of two axes",
      "edges::one_of_two"),
    M("workers/_workers", "self.check_bound()\n        updates = check_updates",
      "updates = check_updates",
      "an axis that is not bound is not named", "workers::not_bound"),
    M("workers/_workers", "(t / self.size).astype(x.dtype)", "t.astype(x.dtype)",
      "a sum for the mean", "workers::collectives"),
    M("workers/_workers", "self.sum(widen(tree))", "self.sum(tree)",
      "16-bit numbers are averaged in 16 bits", "workers::masked"),
    M("workers/_workers", "self._reduce(lax.pmax, tree)",
      "self._reduce(lax.psum, tree)",
      "a sum for the maximum", "workers::collectives"),
    M("workers/_workers", "for name in reversed(self._axes):",
      "for name in self._axes:",
      "two axes in the other order", "edges::order_of_two"),
    M("workers/_workers", "self.index * self.size + number", "self.index + number",
      "a row draws what the next worker's row before drew",
      "edges::server"),
    M("workers/_workers", "all_finite(tree, workers=self.size)", "all_finite(tree)",
      "sums may overflow", "range::near range::mean_of"),
    M("workers/_workers", "return lax.psum(flag_of(finite, jnp.int32), others) == 0",
      "return finite",
      "parts of a worker decide for themselves", "skip_nonfinite::parts_of"),
    M("workers/_own", '"shard" if hasattr(node, "padding_field") else "worker"',
      '"worker"',
      "a server's shards are taken for a parameter", "edges::shards_are_split"),
    M("workers/_own", "if field in type(node).per_worker else state_owners(value)",
      'if field in type(node).per_worker else jax.tree.map(lambda _: "all", value)',
      "what stands inside a state is nobody's own", "resize::it_finds"),
    M("workers/_gradients", "tuple(workers.varying(a) if i in wanted else a",
      "tuple(a", "gradients are summed", "workers::local_value"),
    M("workers/_gradients", "{p % len(args) for p in positions}", "set(positions)",
      "argnums=-1 is summed", "edges::argnums"),

    # Wrappers.
    M("wrappers/_accept", "lower = after < before", "lower = after <= before",
      "a step that lowers nothing is taken", "edges::equal_loss"),
    M("wrappers/_accept",
      "workers.mean((jnp.reshape(before, ()), jnp.reshape(after, ())))",
      "(jnp.reshape(before, ()), jnp.reshape(after, ()))",
      "each worker decides by its own loss", "edges::option_2"),
    M("wrappers/_accept", "keep_if(lower, inner, state.inner)", "inner",
      "a rejected step moves the state", "oracles::option_2"),
    M("wrappers/_accept", "lambda u: jnp.where(lower, u, jnp.zeros_like(u))",
      "lambda u: u * lower",
      "a rejected NaN is applied", "edges::option_2"),
    M("wrappers/_accumulate", "last = count >= needed", "last = count == needed",
      "a number that no step meets is never reached", "edges::every"),
    M("wrappers/_accumulate", "t / count.astype(t.dtype)",
      "t / jnp.asarray(needed, t.dtype)",
      "the mean is over the number that was asked for", "edges::every"),
    M("wrappers/_accumulate", "acc_grads=zero_unless(~last, total)",
      "acc_grads=jax.tree.map(lambda t: t * ~last, total)",
      "a NaN stays in the sum", "accumulate::nan_spoils"),
    M("wrappers/_accumulate", "lambda a, g: a + g.astype(a.dtype)",
      "lambda a, g: (a.astype(g.dtype) + g).astype(a.dtype)",
      "16-bit gradients are summed in 16 bits", "accumulate::float32"),
    M("wrappers/_accumulate", "every(state.gradient_step)", "every(state.mini_step)",
      "the schedule sees another count", "accumulate::optaxs"),
    M("wrappers/_accumulate", 'goes_on = ("acc_grads", "mini_step")',
      'goes_on = ("acc_grads",)',
      "a refused step brings back the count", "skip_nonfinite::dropped_whole"),
    M("wrappers/_accumulate", 'per_worker = ("acc_grads",)', "per_worker = ()",
      "sums are the same on all workers", "accumulate::declared"),
    M("wrappers/_local", "workers.all_finite(updates), updates, state",
      "workers.all_finite(()), updates, state",
      "momentum never recovers from a NaN", "edges::momentum"),
    M("wrappers/_local", 'per_worker = ("inner",)', "per_worker = ()",
      "momentum is the same on all workers", "resize::it_finds workers::declared"),
    M("wrappers/_skip_nonfinite", 'if field in getattr(old, "goes_on", ())', "if False",
      "a refused step brings back its NaN", "skip_nonfinite::dropped_whole"),
    M("wrappers/_skip_nonfinite", "finite = workers.all_finite(out)",
      "finite = workers.all_finite(updates)",
      "each worker decides by its own gradient", "skip_nonfinite::never_been"),
    M("wrappers/_skip_nonfinite", "if own & varying_axes(finite):", "if False:",
      "replicas drift apart", "skip_nonfinite::did_not_cross"),
    M("wrappers/_skip_nonfinite", "finite, 0, optax.safe_increment(state.consecutive)",
      "finite, state.consecutive, optax.safe_increment(state.consecutive)",
      "consecutive is the total", "skip_nonfinite::never_been"),
    M("wrappers/_skip_nonfinite", "_refuse_multi_steps(inner)", "pass",
      "MultiSteps would bring back its NaN forever", "skip_nonfinite::refused_inside"),

    # Meshes.
    M("mesh/_resize", "np.mean(old, axis=0,", "np.sum(old, axis=0,",
      "a sum for the mean", "resize::mean_error"),
    M("mesh/_resize", "np.mean(old, axis=0,", "np.mean(old[:1], axis=0,",
      "the first worker's for the mean", "resize::mean_error"),
    M("mesh/_resize", "dtype=np.float64 if real", "dtype=old.dtype if real",
      "the mean in the dtype of the leaf", "resize::float64"),
    M("mesh/_resize", "one = np.max(old, axis=0)", "one = old[0]",
      "the first worker's number", "resize::integers"),
    M("mesh/_resize", "fold(keys[i % size], i)[None]", "keys[i % size][None]",
      "new workers draw what old ones draw", "resize::keys"),
    M("mesh/_resize", "new[i] = -numbers % count", "new[i] = numbers % count",
      "the new padding", "resize::cut_anew"),
    M("mesh/_specs", 'jnp.ndim(leaf) - (owner != "all")', "jnp.ndim(leaf)",
      "a leaf of too few axes is split", "edges::too_few"),
    M("mesh/_layout", "if shape[:1] != (self.count,)]", "if not shape]",
      "gradients of other numbers of workers", "placement_refusals::gradients"),
    M("mesh/_layout", 'if owner != "all" and jnp.shape(x)[:1] != (self.count,)',
      "if False", "a state of other workers is not named",
      "placement_refusals::another_number"),
    M("mesh/_layout", "varying_axes(x) - set(names_in(spec))",
      "varying_axes(x) & set()",
      "what did not cross is not told what to do",
      "placement_refusals::without_the_axis placement_refusals::not_declared"),
    M("mesh/_layout", "if found or Workers(self.axis_name).is_bound:", "if found:",
      "over_workers inside vmap", "bad_use::another_map"),
    M("mesh/_mesh", "groups[index][:each]", "groups[index]",
      "fewer workers than devices", "placement_refusals::one_worker"),
    M("mesh/_mesh", "for index in sorted(groups) for d", "for index in groups for d",
      "every process makes its own order", "placement_refusals::every_process"),
    M("mesh/_over_workers", "not isinstance(x, bool) and isinstance(", "isinstance(",
      "an extra boolean is traced", "edges::boolean"),

    # Around.
    M("_checks", "not low <= number <= high", "(number < low or number > high)",
      "a decay of NaN passes", "edges::nan_is_no"),
    M("_checks", "if not isinstance(state, kind):", "if False:",
      "a state of something else", "bad_use::state"),
    M("wire/_message", "sum(4 * x.size", "sum(8 * x.size",
      "the message of both workers", "edges::message_bits"),
    M("wire/_message", "wide(leaf_dtype(x))", "leaf_dtype(x)",
      "16-bit messages, where the error makes them 32", "edges::message_bits"),
    M("wire/_message", " + message_bits(identity(), own)", "",
      "exempt leaves are not counted", "edges::message_bits"),
    M("optimizers/_parts", 'jax.random.fold_in(as_key("key", key), 1)',
      'as_key("key", key)',
      "noise draws what a vote drew", "edges::noise"),
    M("optimizers/_parts", "eta=jnp.square(noise)", "eta=noise",
      "the deviation of the noise", "bounds::update_noise"),
    M("optimizers/_parts", "state.count < steps", "state.count <= steps",
      "one step more of warming up", "oracles::follows"),
]


def nodes_of(tests: str) -> list[str]:
    """Returns the tests that are named; all of them must be there."""
    found = []
    for name in tests.split():
        file, _, part = name.partition("::")
        path = ROOT / "tests" / f"test_{file}.py"
        names = re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
        chosen = [n for n in names if part in n]
        if not chosen:
            raise ValueError(f"{name} names no test")
        found += [f"tests/test_{file}.py::{n}" for n in chosen] if part else [
            f"tests/test_{file}.py"]
    return found


def copy_to(folder: pathlib.Path, mutant: Mutant | None) -> None:
    """Copies the library and its tests, with the mutant in it."""
    for part in ("ef_optax", "tests", "experiments"):
        shutil.copytree(ROOT / part, folder / part,
                        ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if mutant:
        path = folder / "ef_optax" / f"{mutant.file}.py"
        path.write_text(path.read_text().replace(mutant.before, mutant.after))


def problem(mutant: Mutant) -> str:
    """Returns what is wrong with a mutant, or nothing."""
    try:
        text = (ROOT / "ef_optax" / f"{mutant.file}.py").read_text()
        if text.count(mutant.before) != 1:
            return f"{mutant.before!r} is there {text.count(mutant.before)} times"
        nodes_of(mutant.tests)
        compile(text.replace(mutant.before, mutant.after), mutant.file, "exec")
    except (OSError, SyntaxError, ValueError) as error:
        return str(error)
    return ""


def run(mutant: Mutant | None, tests: list[str], *options: str,
        limit: float | None = LIMIT) -> tuple[str, float, str]:
    """Runs tests in a copy; returns the verdict, seconds, and the end of the output."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy_to(pathlib.Path(folder), mutant)
        cache = str(ROOT / ".pytest_cache" / "jax")
        try:
            process = subprocess.run(
                [sys.executable, *PYTEST, *options, *tests], cwd=folder, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit,
                env={"JAX_COMPILATION_CACHE_DIR": cache,
                     "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **os.environ,
                     "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"},
            )
        except subprocess.TimeoutExpired:
            return "timeout", time.monotonic() - start, ""
    verdict = {0: SURVIVED, 1: "killed"}.get(process.returncode, BAD)
    return verdict, time.monotonic() - start, process.stdout[-2000:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pattern", nargs="*", help="regular expressions; of the file, "
                        "the texts or the reason; without any, all mutants")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at once")
    parser.add_argument("--list", action="store_true", help="only show them")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.pattern or any(
        re.search(p, " ".join(m)) for p in options.pattern)]
    wrong = [(m, text) for m in chosen if (text := problem(m))]
    for mutant, text in wrong:
        print(f"{BAD}  {mutant.file}: {mutant.why}: {text}")
    if options.list:
        for mutant in chosen:
            print(f"{mutant.file}: {mutant.why}\n    {mutant.before!r}\n"
                  f"    {mutant.after!r}\n    {mutant.tests}")
    if wrong or options.list or not chosen:
        return 0 if chosen and not wrong else 1

    tests = sorted({node for m in chosen for node in nodes_of(m.tests)})
    verdict, seconds, output = run(None, tests, "-n", str(options.jobs),
                                   "--dist", "loadfile", limit=None)
    print(f"without a mutant: {'passed' if verdict == SURVIVED else 'FAILED'} "
          f"in {seconds:.0f} s", flush=True)
    if verdict != SURVIVED:
        print(output)
        return 1

    start, verdicts = time.monotonic(), collections.Counter[str]()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(run, m, nodes_of(m.tests)): m for m in chosen}
        try:
            for job in concurrent.futures.as_completed(jobs):
                mutant, (verdict, seconds, output) = jobs[job], job.result()
                verdicts[verdict] += 1
                print(f"{verdict:8}  {seconds:4.0f} s  {mutant.file}: {mutant.why}",
                      flush=True)
                if verdict == BAD:
                    print(output)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    print(f"{len(chosen)} mutants in {time.monotonic() - start:.0f} s: "
          + ", ".join(f"{n} {v}" for v, n in sorted(verdicts.items())))
    return 1 if verdicts[SURVIVED] or verdicts[BAD] else 0


if __name__ == "__main__":
    sys.exit(main())
