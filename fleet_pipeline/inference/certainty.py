"""How sure an engine was of an answer, from the log-probabilities that it gives with every token.

Both figures are means over the answer's tokens, its reasoning included. They say how sure the model was, and not whether it was right.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Certainty(NamedTuple):
    mean_logprob: float  # of the tokens that were sampled; 0 is certain
    # Divergence of the distribution of the next token from an even one, in nats (Kang et al. 2025, arXiv:2502.18581). 0 is
    # knowing nothing. None without top log-probabilities.
    self_certainty: float | None


def certainty(tokens: Sequence[Sequence[float]], vocabulary: int) -> Certainty | None:
    """`tokens`: for each the log-probability of what was sampled, and then those of the likeliest. None without a token.

    An engine gives the likeliest alone: what they leave is taken to be spread evenly over the rest of the `vocabulary`.
    """
    if not tokens:
        return None
    mean = sum(token[0] for token in tokens) / len(tokens)
    if len(tokens[0]) == 1:
        return Certainty(mean, None)
    return Certainty(mean, sum(_divergence(token[1:], vocabulary) for token in tokens) / len(tokens))


def _divergence(likeliest: Sequence[float], vocabulary: int) -> float:
    """Of one position: -1/V x the sum of log(V p) over the vocabulary of V. A schema forbids tokens: they have no part."""
    likeliest = [one for one in likeliest if one > -math.inf]
    rest = vocabulary - len(likeliest)
    left = max(1.0 - sum(map(math.exp, likeliest)), 1e-12)
    total = sum(likeliest) + (rest * math.log(left / rest) if rest > 0 else 0.0)
    return -math.log(vocabulary) - total / vocabulary
