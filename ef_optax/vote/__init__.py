"""Votes: exchanges that have no error to keep."""

from ef_optax.vote._majority import majority_vote, vote_sum
