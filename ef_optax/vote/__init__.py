"""Votes: exchanges that have no error to keep."""

from ef_optax.vote._majority import Vote, majority_vote, vote_sum

__all__ = ["Vote", "majority_vote", "vote_sum"]
