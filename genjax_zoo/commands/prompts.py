"""What the flags say of texts: who writes them, by which rules, with which draft.

Floor 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from genjax_zoo.commands import configs
from genjax_zoo.commands.flags import Call
from genjax_zoo.contract import Autoregression, ConfigError, Key, State
from genjax_zoo.data.text import tokenizer
from genjax_zoo.data.text.tokenizers import Tokenizer
from genjax_zoo.maths.sequences.speculative import Writer
from genjax_zoo.maths.sequences.warping import Decoding
from genjax_zoo.run import config, trained
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.run.setup import SAMPLE
from genjax_zoo.run.texts.writer import Author
from genjax_zoo.run.trained import Trained

RULES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
OF_TEXTS = (*RULES, "stop", "max_new", "beams", "draft", "drafts", "stream")
"""Flags that are read where a text is written."""
USUAL, DRAFTS = 256, 4
"""Symbols that are written where nothing is said, and those that a draft writes ahead."""


def check(call: Call) -> None:
    """Raises ConfigError for flags that say nothing beside one another, or without a prompt."""
    known = call.flags
    said = [name for name in OF_TEXTS if name in known and known[name].present]
    if call.command == "sample" and not known.prompt:
        if said:
            raise ConfigError(
                f"--{said[0]} is read where a text is written; give its beginning too, "
                "--prompt='...', or --prompt= for nothing."
            )
        return
    if "drafts" in said and "draft" not in said:
        raise ConfigError(f"--drafts={known.drafts} expects a draft: --draft=WORKDIR.")
    if call.command != "sample":
        return
    if known.given or known.text is not None:
        raise ConfigError(
            "--prompt and --given (or --text) say two different things of what is written; give "
            "one of them."
        )
    if known.beams is not None:
        _check_beams(known.beams, known.n or 1, said)
    if known.stream and len(known.prompt) * (known.n or 1) > 1:
        raise ConfigError(
            f"--stream shows one text, and {len(known.prompt)} prompts with --n={known.n or 1} are "
            "several; leave it out, or ask for one."
        )


def _check_beams(beams: int, n: int, said: Sequence[str]) -> None:
    idle = [name for name in said if name in (*RULES, "draft", "stream")]
    if idle:
        raise ConfigError(
            f"--beams={beams} searches the likeliest text and draws nothing, which leaves nothing "
            f"to --{idle[0]}; leave one of them out."
        )
    if n > beams:
        raise ConfigError(f"--n={n} texts are more than --beams={beams} holds; ask for fewer.")


def rules_of(call: Call) -> Decoding:
    """The rules that the flags say; raises ConfigError for those that there cannot be."""
    said = {name: getattr(call.flags, name) for name in RULES}
    try:
        return Decoding(**{name: value for name, value in said.items() if value is not None})
    except ConfigError as error:
        # A field of the rules is a flag of the same name.
        raise ConfigError(f"--{str(error).rpartition(': ')[2]}") from error


def key_of(call: Call, parts: Trained) -> Key:
    """The key of a draw: of a stream of its own, apart from the keys of the run's steps."""
    key = jax.random.fold_in(jax.random.key(parts.run.seed), SAMPLE)
    return jax.random.fold_in(key, call.flags.sample_seed)


def tokenizer_of(parts: Trained) -> Tokenizer:
    """What the run's texts are read by; raises ConfigError where its data are none."""
    if parts.tokenizer is not None:
        return parts.tokenizer
    letters = parts.symbols.get("x", ())
    if letters and all(len(letter) == 1 for letter in letters):
        return tokenizer.of_characters(letters)
    raise ConfigError(
        f"a model that writes texts was expected, and {parts.run.data.source} holds none; choose "
        "the workdir of a language_model, a recurrent or a markov_chain on text:PATH."
    )


def writes_of(parts: Trained) -> Autoregression:
    """How the model writes; raises ConfigError where it does not, symbol after symbol."""
    if parts.model.autoregression is None:
        raise ConfigError(
            f"a model that writes symbol after symbol was expected, and a "
            f"{parts.run.model['name']} does not; choose the workdir of a language_model, a "
            "recurrent or a markov_chain."
        )
    return parts.model.autoregression


def author_of(call: Call, parts: Trained, state: State, end: Sequence[int] = ()) -> Author:
    """Who writes, as the flags say.

    Args:
      call: the command line.
      parts, state: the model.
      end: symbols that end a text besides the tokenizer's and the model's own.
    """
    own, rules = tokenizer_of(parts), rules_of(call)
    target, draft = Writer(writes_of(parts), state), None
    if call.flags.draft is not None:
        draft = _draft(call.flags.draft, own)
    ends = {*end, own.specials.get("end", -1), target.writes.end} - {-1}
    return Author(target, own, rules, sorted(ends), draft, call.flags.drafts or DRAFTS)


def _draft(name: str, own: Tokenizer) -> Writer:
    """The model in another workdir; raises ConfigError where it reads other symbols."""
    workdir = Workdir(name)
    workdir.check_version()
    run = config.read(configs.unjson(workdir.read_config()))
    parts = trained.read(workdir, run)
    theirs = tokenizer_of(parts)
    if theirs.sha256 != own.sha256:
        raise ConfigError(
            f"--draft={name} reads texts by another tokenizer ({theirs.name}, "
            f"{theirs.sha256[:12]}) than this run ({own.name}, {own.sha256[:12]}): their symbols "
            "mean different things. Choose a draft that was trained with this run's tokenizer "
            "(config.data.tokenizer=WORKDIR/tokenizer)."
        )
    _, state = trained.restore(parts, workdir)
    return Writer(writes_of(parts), state)
