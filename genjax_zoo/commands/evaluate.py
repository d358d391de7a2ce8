"""genjax-zoo evaluate: measures the model in --workdir on held-out data, and its samples.

Floor 8.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from genjax_zoo.commands import configs
from genjax_zoo.commands.flags import Call
from genjax_zoo.contract import DataError, Measure, ZooError
from genjax_zoo.data import summary
from genjax_zoo.measure import examples, extractors, samples, texts
from genjax_zoo.measure.results import Result, describe
from genjax_zoo.run import trained
from genjax_zoo.run.config import Run, make_model
from genjax_zoo.run.devices import memory
from genjax_zoo.run.record import report, results, tokenizer
from genjax_zoo.run.record.progress import Measuring, Progress, log
from genjax_zoo.run.setup import EVALUATE, Setup, set_up
from genjax_zoo.typed import choose

SHORTER = "--examples={} takes fewer, and whoever stops it keeps the numbers so far."
"""What is said of measuring that takes long."""


def run(call: Call) -> None:
    """Adds to eval/metrics.json and the report, and prints."""
    workdir = configs.workdir_of(call)
    workdir.read_numbers()
    own_run = configs.of_trained(call, workdir)
    of_examples = examples.measures_of(make_model(own_run))
    asked = tuple(call.flags.measures or ())
    for name in asked:
        choose(name, {**of_examples, **dict.fromkeys([*samples.NAMES, *texts.NAMES])}, "measure")
    draws = call.flags.importance_samples or 0
    _check_draws(draws, {n: m for n, m in of_examples.items() if not asked or n in asked})
    data_dir, begun = configs.data_dir_of(call, workdir), trained.begun_of(workdir)
    own = tokenizer.own(workdir)
    setup = set_up(own_run, data_dir, learning=False, begun=begun, own=own)
    log(summary.line(setup.source))
    if workdir.others_now(summary.record(setup.source)):
        log(f"{setup.source.name} is no longer what this run learnt from: these are other data")
    memory.check_samples("num_samples", call.flags.num_samples or 0, setup.example)
    extractor = _extractor(call, setup)
    of_samples = samples.applicable(setup.model, setup.source, extractor)
    of_texts = texts.NAMES if texts.applicable(setup.model, setup.source) else ()
    _check_measures(own_run, asked, (*of_examples, *of_samples, *of_texts))
    step, state = trained.restore(setup, workdir, call.flags.checkpoint)
    reading = _reading(call, setup, state, bool(of_texts))
    what = (setup.model, state, setup.source, jax.random.fold_in(setup.root, EVALUATE), step)
    only, n = asked or None, call.flags.num_samples
    found: list[Result] = []
    try:
        with Progress() as progress:
            watch = Measuring(progress, SHORTER)
            for result in examples.one_by_one(
                *what, call.flags.examples, only, progress=watch, importance_samples=draws
            ):
                found.append(result)
                # A folder that takes none is told of at the end, below the numbers.
                with contextlib.suppress(OSError):
                    results.write(workdir, found)
            if reading is not None:
                shown = Measuring(progress, "A longer --stride takes less time.")
                found += texts.evaluate(*what[:3], reading, step, only, progress=shown)
            found += samples.evaluate(*what, extractor, n, only, progress=Measuring(progress))
    finally:
        for result in found:
            print(describe(result))
    if any(result.trust.get("untrusted") for result in found):
        print(
            "What cannot be trusted probably lies too low. --importance_samples=N gives such\n"
            "examples up to N draws each; a tail index that stays above .7 asks for another\n"
            "posterior, for no N helps."
        )
    results.write(workdir, found)
    report.write(workdir.root)


def _reading(call: Call, setup: Setup, state: Any, is_text: bool) -> texts.Reading | None:
    """How a text is read: as the flags say, and else as it was learnt from; None of no text."""
    said = {name: getattr(call.flags, name) for name in ("context", "stride", "documents")}
    told = {name: value for name, value in said.items() if value is not None}
    if not is_text:
        if told:
            raise ZooError(
                f"--{next(iter(told))} says how a text is read, and a {setup.run.model['name']} on "
                f"{setup.run.data.source} has none to measure; leave it out."
            )
        return None
    usual = texts.usual(setup.model, state, setup.source, setup.run.data.length)
    reading = usual._replace(first=call.flags.first_symbol, **told)
    return texts.checked(reading, texts.longest(setup.model, state))


def _extractor(call: Call, setup: Setup) -> Any:
    """What samples are seen through: the flag's, or the zoo's own for these data, or None."""
    if "x" not in setup.example:
        return None
    shape = setup.example["x"].shape[1:]
    if not call.flags.extractor:
        return extractors.for_data(setup.source.name, shape)
    own = extractors.load(call.flags.extractor)
    extractor = extractors.resized(own, shape)
    if extractor is None:
        raise DataError(
            f"--extractor={call.flags.extractor} sees images {list(own.shape)}, and the data are "
            f"{list(shape)}; make one of such images by experiments/extractors.py."
        )
    return extractor


def _check_measures(run: Run, asked: Sequence[str], known: Sequence[str]) -> None:
    """Raises ZooError where nothing, or not what was asked for, can be measured."""
    why = (
        f"a {run.model['name']} on {run.data.source} has: {', '.join(known) or '(none)'}. Measures "
        "of modes need a density made of them; those of features an extractor: --extractor=FILE."
    )
    missing = [name for name in asked if name not in known]
    if missing:
        raise ZooError(f"--measures={','.join(missing)} cannot be measured here; {why}")
    if not known:
        raise ZooError(f"nothing can be measured; {why}")


def _check_draws(draws: int, measured: Mapping[str, Measure]) -> None:
    """Raises ZooError for a number of draws that nothing of what is measured would take."""
    weighed = {name: of.draws for name, of in measured.items() if of.weighed is not None}
    if not draws or any(draws >= K for K in weighed.values()):
        return
    if not weighed:
        raise ZooError(
            f"--importance_samples={draws}: none of {', '.join(measured) or '(no measure)'} is "
            "estimated by importance weights; leave the flag out."
        )
    name, K = min(weighed.items(), key=lambda item: item[1])
    raise ZooError(
        f"--importance_samples={draws} is fewer than the {K} draws that {name} takes of every "
        f"example; give {K} or more, or set --config.model.importance_samples={draws}."
    )
