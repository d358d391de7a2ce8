"""Exact inference in Bayes nets of discrete and linear-Gaussian nodes, and questions to them.

Floor 1. A discrete node has a table of probabilities for each configuration s of its parents, and a
real one is linear in its real parents x, for each configuration s of its discrete ones:

    p(x_i = k | s) = θ_sk                      p(x_i | s, x) = N(x_i; b_s + w_sᵀx, v_s)

(Lauritzen, Propagation of probabilities, means and variances in mixed graphical association models,
1992; a discrete node has no real parent). Koller & Friedman, Probabilistic graphical models, 2009,
have all of it. The rooms, each of which knows those above it:

    params            a net and its tables; tables of one's own
    evidence          what is observed of the nodes, and whether it can be
    linear_gaussian   the real nodes: integrated out for each configuration of the discrete ones
    elimination       the discrete nodes summed out; expectations, as gradients
    learning          where tables begin, and the best ones for expected statistics
    queries           probabilities, moments, interventions and draws, given values of some nodes

    net = from_tables(
        "P(rain) P(wet | rain)", {"rain": [0.8, 0.2], "wet | rain": [[0.9, 0.1], [0, 1]]}
    )
    query(net, "rain", {"wet": 1})           # [.286, .714]: P(rain | wet = 1)
    query(do(net, {"wet": 1}), "rain")       # [.8, .2]: to pour water on it makes no rain
"""

from genjax_zoo.maths.inference.bayes_nets.params import Linear, Params, Table, from_tables
from genjax_zoo.maths.inference.bayes_nets.queries import Moments, do, draw, moments, query

__all__ = [
    "Linear",
    "Moments",
    "Params",
    "Table",
    "do",
    "draw",
    "from_tables",
    "moments",
    "query",
]
