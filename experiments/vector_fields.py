"""Claim: a game's own field turns, its conservative field settles anywhere, and their sum arrives.

Of the bilinear game and the Dirac-GANs, each with two parameters, three fields are drawn:

    v                  along which the players would like to go
    -∇L, L = ½‖v‖²     along which the field grows still
    v - γ ∇L           consensus optimization (Mescheder, Nowozin & Geiger 2017), γ = .6

The claim holds if at the equilibrium of every game v has eigenvalues on the imaginary axis and the
sum has them left of it, both within 1e-4 of the closed form; and if, in a game where one player can
sit on its own maximum, -∇L converges to that point and the sum leaves it.

    python experiments/vector_fields.py

writes a page, a picture and the numbers to experiments/results/. Nothing is random.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import study

from genjax_zoo.contract import Array
from genjax_zoo.maths import games
from genjax_zoo.maths.games import objectives
from genjax_zoo.measure import games as numerics

Loss = Callable[[Array, Array], Array]
GAMMA = 0.6
STEP = 0.2
MOVES = 150


class Game(NamedTuple):
    """A game of two numbers: x of the generator (θ of a Dirac-GAN), y of the discriminator (ψ).

    Attributes:
      title: as the page names it.
      losses: (x, y) -> {player: loss}.
      J: the closed form of v' at the origin, in (x, y).
      extent: the square drawn is [-extent, extent]².
      starts: of the trajectories, each (x, y).
    """

    title: str
    losses: Callable[[Array, Array], dict[str, Array]]
    J: np.ndarray
    extent: float = 3.0
    starts: tuple[tuple[float, float], ...] = ((1.5, 0.0), (-1.2, 2.0))

    def at(self, x: float, y: float) -> tuple:
        """What `numerics.flatten` and `numerics.update` ask for, at this point."""

        def losses(key: Any, params: games.Players, memory: Any, batch: Any):
            return self.losses(params["generator"], params["discriminator"]), (memory, {})

        params = {"generator": jnp.asarray(x), "discriminator": jnp.asarray(y)}
        return losses, jax.random.key(0), params, (), {}


def _dirac(objective: str) -> Callable[[Array, Array], dict[str, Array]]:
    """Data at 0, samples at θ, a(x) = ψ x + b; b is what a says where it cannot tell."""
    b = {"least_squares": 0.5}.get(objective, 0.0)
    return lambda theta, psi: objectives.OBJECTIVES[objective](
        jnp.array([b]), psi * theta[None] + b
    )


def _turning(c: float) -> np.ndarray:
    return np.array([[0, c], [-c, 0]])


CROSS = 0.5
"""c of the last game."""
GAMES = {
    "bilinear": Game(
        "bilinear game: x lowers xy, y raises it",
        lambda x, y: {"generator": x * y, "discriminator": -x * y},
        _turning(-1.0),
        extent=2.0,
        starts=((0.8, 0.0), (-0.6, 1.0)),
    ),
    "minimax": Game("Dirac-GAN, minimax", _dirac("minimax"), _turning(0.5)),
    "non_saturating": Game("Dirac-GAN, non-saturating", _dirac("non_saturating"), _turning(0.5)),
    "least_squares": Game(
        "Dirac-GAN, least squares",
        _dirac("least_squares"),
        _turning(0.5),
        extent=2.0,
        starts=((1.2, 0.0), (-0.7, 1.0)),
    ),
    "wasserstein": Game("Dirac-GAN, Wasserstein", _dirac("wasserstein"), _turning(1.0)),
    "hinge": Game("Dirac-GAN, hinge", _dirac("hinge"), _turning(1.0)),
    # x has two valleys at ± 1 and a hill between them. v = (x - x³ - c y, c x - y): at the origin x
    # sits on the hill, and at x² = 1 - c², y = c x, both are content.
    "two_valleys": Game(
        "two valleys: x lowers x⁴/4 - x²/2 + xy/2, y lowers y²/2 - xy/2",
        lambda x, y: {
            "generator": x**4 / 4 - x**2 / 2 + CROSS * x * y,
            "discriminator": y**2 / 2 - CROSS * x * y,
        },
        np.array([[1.0, -CROSS], [CROSS, -1.0]]),
        extent=1.5,
        starts=((0.25, 1.1), (-0.3, -0.2), (0.45, -0.9)),
    ),
}
DRAWN = ("bilinear", "non_saturating", "least_squares", "two_valleys")
VALLEY = (np.sqrt(1 - CROSS**2), CROSS * np.sqrt(1 - CROSS**2))
FIELDS = {
    "v": ("v", r"$v$", study.RED, "o"),
    "conservative": ("-∇L", r"$-\nabla L$", study.ORANGE, "s"),
    "combined": (f"v - {GAMMA} ∇L", rf"$v - {GAMMA}\,\nabla L$", study.BLUE, "D"),
}
"""Name on the page, name in the picture, colour, marker."""


def fields(game: Game, x: float = 0.0, y: float = 0.0) -> dict[str, numerics.Flat]:
    """The three fields of a game, as functions of (y, x): players are in the order of names."""
    v = numerics.flatten(*game.at(x, y))
    L = lambda theta: jnp.sum(v.function(theta) ** 2) / 2
    losses, *rest = game.at(x, y)
    # The combined field is what consensus optimization moves along, read off its move of step 1.
    moved = numerics.update(losses, games.consensus(GAMMA), 1.0, *rest)
    return {
        "v": v,
        "conservative": v._replace(function=jax.jit(lambda theta: -jax.grad(L)(theta))),
        "combined": v._replace(function=lambda theta: moved.function(theta) - theta),
    }


def closed_form(J: np.ndarray) -> dict[str, np.ndarray]:
    """The eigenvalues at a fixed point: of J = v', of -JᵀJ, and of J - γ JᵀJ."""
    return {
        "v": np.linalg.eigvals(J),
        "conservative": np.linalg.eigvals(-J.T @ J),
        "combined": np.linalg.eigvals(J - GAMMA * J.T @ J),
    }


class Row(NamedTuple):
    """What is known of one field at one fixed point."""

    game: str
    point: tuple[float, float]
    field: str
    eigenvalues: np.ndarray
    expected: np.ndarray
    convergence: numerics.Convergence
    nash: str

    @property
    def error(self) -> float:
        """How far the eigenvalues are from the closed form, at most."""
        by = lambda z: sorted(np.asarray(z, complex), key=lambda w: (round(w.real, 3), w.imag))
        pairs = zip(by(self.eigenvalues), by(self.expected), strict=True)
        return max(abs(a - b) for a, b in pairs)


def measure() -> list[Row]:
    """Every field of every game at the origin, and of the last one in its valley too."""
    valley = np.array([[1 - 3 * VALLEY[0] ** 2, -CROSS], [CROSS, -1.0]])
    points = [(name, (0.0, 0.0), game.J) for name, game in GAMES.items()]
    rows = []
    for name, point, J in [*points, ("two_valleys", VALLEY, valley)]:
        three = fields(GAMES[name], *point)
        nash = numerics.nash(three["v"]).verdict
        for field, expected in closed_form(J).items():
            found = numerics.eigenvalues(three[field])
            verdict = numerics.convergence(found, STEP, rounding=1e-5)
            rows.append(Row(name, point, field, found, expected, verdict, nash))
    return rows


def trajectory(field: numerics.Flat, start: tuple[float, float]) -> np.ndarray:
    """[MOVES + 1, 2] points (x, y) of descent with step h along a field."""
    theta = jnp.asarray(start[::-1])
    move = lambda theta, _: (theta + STEP * field.function(theta),) * 2
    path = np.concatenate([theta[None], jax.lax.scan(move, theta, None, MOVES)[1]])
    return path[:, ::-1]


def verdict(rows: list[Row]) -> tuple[bool, str]:
    """Whether the claim holds, and the sentences that say so."""
    at = {(row.game, row.field): row for row in rows if row.point == (0.0, 0.0)}
    turning = [name for name in GAMES if name != "two_valleys"]
    error = max(row.error for row in rows)
    turns = all(abs(at[name, "v"].eigenvalues.real).max() < 1e-4 for name in turning)
    arrives = all(at[name, "combined"].convergence.verdict == "converges" for name in turning)
    hill = {field: at["two_valleys", field].convergence.verdict for field in FIELDS}
    caught = [hill["v"], hill["conservative"], hill["combined"]] == [
        "diverges",
        "converges",
        "diverges",
    ]
    holds = error < 1e-4 and turns and arrives and caught
    return holds, (
        f"At the equilibrium of the {len(turning)} games v "
        f"{'has' if turns else 'does NOT have'} its eigenvalues on the imaginary axis, and "
        f"v - {GAMMA} ∇L {'has' if arrives else 'does NOT have'} them left of it; all lie within "
        f"{error:.0e} of the closed form. On the hill of the last game -∇L "
        f"{hill['conservative']}, v {hill['v']} and the sum {hill['combined']}: the claim "
        f"{'holds' if holds else 'does NOT hold'}."
    )


# ------------------------------------------------------------------------------ the picture


def draw(rows: list[Row], plt: Any) -> Any:
    """A row a game: three fields with trajectories, and their eigenvalues at the origin."""
    figure = plt.figure(figsize=(13, 12.4), layout="constrained")
    grid = figure.subplots(len(DRAWN), 4)
    for axes, name in zip(grid, DRAWN, strict=True):
        game = GAMES[name]
        for axis, (field, (_, title, colour, _)) in zip(axes, FIELDS.items(), strict=False):
            flow(axis, game, fields(game)[field], colour)
            if name == DRAWN[0]:
                axis.set_title(title, fontsize=15, color=colour)
        spectrum(axes[3], [r for r in rows if r.game == name and r.point == (0.0, 0.0)])
        head = game.title.split(": ")
        axes[0].set_ylabel(f"{head[0]}\n\ny, the discriminator", fontsize=11)
    grid[0][3].set_title("eigenvalues at the origin", fontsize=13)
    for axis in grid[-1][:3]:
        axis.set_xlabel("x, the generator")
    grid[-1][3].set_xlabel("real part")
    grid[0][3].legend(loc="upper left", fontsize=9, handletextpad=0.2, borderpad=0.1)
    return figure


def flow(axis: Any, game: Game, field: numerics.Flat, colour: str) -> None:
    """One field as stream lines, the faster the darker, with trajectories upon it."""
    line = np.linspace(-game.extent, game.extent, 41)
    x, y = np.meshgrid(line, line)
    points = jnp.stack([y.ravel(), x.ravel()], -1).astype(jnp.float32)
    v_y, v_x = np.asarray(jax.vmap(field.function)(points)).T.reshape(2, *x.shape)
    speed = np.hypot(v_x, v_y)
    grey = matplotlib.colors.LinearSegmentedColormap.from_list("", ["0.9", "0.55"])
    axis.streamplot(
        x, y, v_x, v_y, color=speed, cmap=grey, density=0.9, linewidth=0.8, arrowsize=0.8
    )
    for start in game.starts:
        path = trajectory(field, start)
        axis.plot(*path.T, color=colour, linewidth=1.5, alpha=0.9)
        axis.plot(*path.T, ".", color=colour, markersize=3)
        axis.plot(*path[0], "o", color="white", markeredgecolor=colour, markersize=6, zorder=5)
        axis.plot(*path[-1], "o", color=colour, markersize=6, zorder=6)
    nash = numerics.nash(numerics.flatten(*game.at(0.0, 0.0))).verdict != numerics.NOT
    axis.plot(0, 0, "+" if nash else "x", color="black", markersize=9, zorder=7)
    if not nash:
        for sign in (1, -1):
            axis.plot(*np.multiply(sign, VALLEY), "+", color="black", markersize=9, zorder=7)
    axis.set(
        xlim=(-game.extent, game.extent), ylim=(-game.extent, game.extent), aspect="equal",
        xticks=[-game.extent, 0, game.extent], yticks=[-game.extent, 0, game.extent],
    )  # fmt: skip
    for side in axis.spines.values():
        side.set(visible=True, color="0.8")


def spectrum(axis: Any, rows: list[Row]) -> None:
    """The eigenvalues in the complex plane, on the disc in which descent of step h converges."""
    disc = matplotlib.patches.Circle((-1 / STEP, 0), 1 / STEP, color="0.93", zorder=0)
    axis.add_patch(disc)
    axis.axvline(0, color="0.6", linewidth=0.7)
    axis.axhline(0, color="0.6", linewidth=0.7)
    found = {row.field: row.eigenvalues for row in rows}
    if np.abs(found["v"].imag).max() > 0:
        for before, after in zip(found["v"], found["combined"], strict=True):
            axis.annotate(
                "", (after.real, after.imag), (before.real, before.imag),
                arrowprops={"arrowstyle": "->", "color": "0.5", "shrinkA": 5, "shrinkB": 5},
            )  # fmt: skip
    for field, (_, title, colour, marker) in FIELDS.items():
        z = found[field]
        axis.plot(z.real, z.imag, marker, color=colour, markersize=7, label=title, linestyle="")
    width = 2.5 if rows[0].game == "two_valleys" else 1.6
    axis.set(xlim=(-width, width / 2), ylim=(-width * 0.75, width * 0.75), aspect="equal")
    axis.set_ylabel("imaginary part")
    inside = rf"$|1 + h\lambda| < 1$, $h = {STEP}$"
    axis.text(-0.95 * width, -0.47 * width, inside, fontsize=10, color="0.4")


# --------------------------------------------------------------------------------- the page


def _spell(z: np.ndarray) -> str:
    """A conjugate pair as a ± bi, two real numbers as they are."""
    values = np.sort_complex(np.asarray(z, complex))
    if abs(values.imag).max() < 1e-6:
        return ", ".join(f"{_number(value.real)}" for value in values)
    real, imag = values[-1].real, abs(values[-1].imag)
    return f"{_number(real) + ' ' if abs(real) > 1e-6 else ''}± {_number(imag)}i"


def _number(x: float) -> str:
    return f"{x:.4f}".rstrip("0").rstrip(".") if abs(x) > 5e-6 else "0"


def page(rows: list[Row], run: study.Study) -> list[str]:
    """The results page."""
    table = study.table(
        ["game", "at (x, y)", "field", "eigenvalues", "closed form", f"descent, h = {STEP}",
         "largest h", "Nash check"],
        [
            [
                GAMES[row.game].title.split(":")[0],
                f"({_number(row.point[0])}, {_number(row.point[1])})",
                FIELDS[row.field][0],
                _spell(row.eigenvalues),
                _spell(row.expected),
                row.convergence.verdict,
                f"{row.convergence.largest_step:.3g}" if row.convergence.largest_step else "none",
                row.nash,
            ]
            for row in rows
        ],
    )  # fmt: skip
    described = "; ".join(g.title.replace(":", ",") for g in GAMES.values() if ":" in g.title)
    trap = np.sqrt(1 - CROSS**2) / (1 - CROSS**2)
    return [
        "# The field of a game, the field that stills it, and their sum",
        verdict(rows)[1],
        run.picture("Three fields of four games with trajectories, and their eigenvalues"),
        f"A row a game, a column a field; stream lines are darker where the field is faster. Lines "
        f"with dots are {MOVES} moves of step h = {STEP} from an open to a filled circle: of "
        "simultaneous descent, of descent on L = ½‖v‖², and of consensus optimization. + marks an "
        "equilibrium, x the hill where one player sits on its own maximum. On the right, the "
        "eigenvalues at the origin; the arrows lead from v to the sum, and the shaded disc is "
        f"where |1 + hλ| < 1, so that descent of step {STEP} converges.",
        "v turns: near the equilibrium plain descent spirals outwards whatever its step, as "
        "|1 + hλ| > 1 says, and where higher orders pull it in from afar (non-saturating, least "
        "squares) it ends on a cycle. -∇L is the "
        "gradient of one function and goes straight to where v = 0, but v is 0 on a hill as well "
        "as in a valley: in the last row it carries starts to the origin, where the generator is "
        "at a maximum of its own loss, and the eigenvalues of -∇L are as negative there as at an "
        "equilibrium. Of least squares one start even leaves for ever, along ψθ = -½, where ‖v‖ "
        "falls with |ψ| as θ grows. Only v knows the difference, and the sum still does. Not for "
        "any weight: "
        f"from γ = {trap:.3f} on (J - γ JᵀJ has the determinant c² - 1 + γ² (1 - c²)² on the hill, "
        "c = ½) the sum is caught there too.",
        table,
        f"The games: {described}. The Dirac-GAN has its data at 0, makes θ and judges by ψ x "
        "(Mescheder, Geiger & Nowozin "
        "2018); least squares judges by ψ x + ½, so that at ψ = 0 it says of everything what a "
        "discriminator says that cannot tell. Wasserstein is the bilinear game by another name, "
        "and hinge is Wasserstein while |ψθ| < 1. The Nash check is undecided where each player's "
        "own loss is flat.",
        run.closing("none (nothing is random)"),
    ]


def main() -> None:
    """Measures, draws and writes the page."""
    run = study.Study(__file__, argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    rows = measure()
    figure = draw(rows, run.pyplot())
    numbers = {
        f"{row.game} at {row.point[0]:.3g},{row.point[1]:.3g}: {row.field}": {
            "eigenvalues": row.eigenvalues,
            "closed_form": row.expected.astype(complex),
            "error": row.error,
            "verdict": row.convergence.verdict,
            "largest_step": row.convergence.largest_step,
            "nash": row.nash,
        }
        for row in rows
    }
    run.write(page(rows, run), figure, numbers)
    print(verdict(rows)[1])


if __name__ == "__main__":
    main()
