"""What every runtime of language models is, and the session that it opens in a child process."""

from __future__ import annotations

__all__ = ["Generation", "LanguageProcess", "LanguageRuntime", "LanguageSession", "TokenScores", "make_language_runtime"]

import abc
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import UserError
from mopt.model.files import Model
from mopt.system.deadlines import TimeLimit
from mopt.system.digests import describe_fields
from mopt.system.environments import interpreter_of, versions_in
from mopt.system.plugins import code_of, load, name_of
from mopt.system.process import ChildProcess, Worker

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]

_LOAD_SECONDS = 900.0
"""For a model to be loaded, which for vLLM means to be compiled too."""
_SECONDS_PER_TOKEN = 2.0
"""More than the slowest runtime takes on a model that anybody would serve; a limit, not an estimate."""
_LEAST_SECONDS = 300.0


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """What a model says of the tokens of one window that it was given, the first one left out.

    Attributes:
        logprob: Natural logarithm of the probability of each token after those before it, shape [n - 1].
        top_ids: The likeliest tokens at each position, the likeliest first, shape [n - 1, k].
        top_logprobs: Their logarithms, of the same shape.
    """

    logprob: npt.NDArray[np.float32]
    top_ids: npt.NDArray[np.int32]
    top_logprobs: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Generation:
    """Tokens that a model continues a prompt with, greedily.

    Attributes:
        ids: The new tokens; an end token ends it, and is the last of them.
        first_seconds: From the request to the first token: the prefill.
        rest_seconds: From the first token to the last.
    """

    ids: tuple[int, ...]
    first_seconds: float
    rest_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageRuntime(abc.ABC):
    """Options of a runtime of language models; they and the library's version are all that a session depends on.

    Attributes:
        threads: Threads for one inference, set explicitly so that candidates are comparable.
        context: Tokens that prompt and answer may have together.
    """

    formats: ClassVar[tuple[str, ...]]
    """Formats of a model that it loads; see :mod:`mopt.model.formats`."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    libraries: ClassVar[tuple[str, ...]]
    """Distributions whose version changes what is measured."""
    tools: ClassVar[str]
    """The environment of ``mopt tools`` whose Python opens sessions."""

    threads: int
    context: int = 2048

    @property
    def name(self) -> str:
        """The name of the runtime: its file's, or its entry point's."""
        return name_of(type(self))

    def key(self) -> dict[str, Any]:
        """Everything that a session depends on besides the model, as JSON data."""
        fields = {"runtime": self.name, "fields": describe_fields(self), "libraries": versions_in(self.tools, self.libraries)}
        return fields | ({"plugin": code} if (code := code_of(type(self))) else {})

    def environment(self) -> dict[str, str]:
        """Variables for the child process, for settings that the library reads when it is imported."""
        return {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

    @abc.abstractmethod
    def open(self, folder: Path) -> LanguageSession:
        """Load the model in a folder. Called in a child process of the environment only."""


class LanguageSession(abc.ABC):
    """A loaded language model, in the child process."""

    @abc.abstractmethod
    def score(self, windows: Sequence[Tokens], top: int) -> list[TokenScores]:
        """Return what the model says of the tokens of each window; nothing is added to a window, no start token either.

        Args:
            windows: Token numbers, shape [n] each; n is at least 2 and at most the runtime's context.
            top: How many of the likeliest tokens to return at each position.
        """

    @abc.abstractmethod
    def generate(self, prompt: Tokens, count: int) -> Generation:
        """Continue a prompt greedily with up to ``count`` tokens; no cache of an earlier request may shorten the prefill."""

    @abc.abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text as the server would, with the start token where the server puts one."""

    @abc.abstractmethod
    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out."""

    @abc.abstractmethod
    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt that the server makes of a chat, with what asks the model to answer at its end.

        Raises:
            NotApplicableError: When the model that was loaded has no chat template.
        """

    @abc.abstractmethod
    def evidence(self) -> dict[str, Any]:
        """Return what is really executed, as JSON data.

        ``kernels`` names what computes the quantized layers, ``precision`` the arithmetic, ``versions`` the libraries and
        ``vocabulary`` the number of tokens that the model gives a probability; what the library does not tell is left out.
        """


class _Host:
    """The object that lives in the child."""

    def __init__(self, runtime: LanguageRuntime, folder: Path) -> None:
        start = time.perf_counter()
        self._session = runtime.open(folder)
        self._load_seconds = time.perf_counter() - start

    def load_seconds(self) -> float:
        return self._load_seconds

    def score(self, windows: Sequence[Tokens], top: int) -> list[dict[str, Any]]:
        return [dataclasses.asdict(scores) for scores in self._session.score(windows, top)]

    def generate(self, prompt: Tokens, count: int) -> dict[str, Any]:
        return dataclasses.asdict(self._session.generate(prompt, count))

    def tokenize(self, text: str) -> list[int]:
        return [int(token) for token in self._session.tokenize(text)]

    def detokenize(self, ids: Sequence[int]) -> str:
        return self._session.detokenize(ids)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return self._session.render(messages)

    def evidence(self) -> dict[str, Any]:
        return self._session.evidence()


class LanguageProcess(ChildProcess):
    """A session in a child process, seen from the parent.

    Raises:
        MissingEnvironmentError: When the runtime's environment is not installed.
        CandidateRejectedError: From any call, when the runtime crashes, fails, or hangs.
    """

    def __init__(self, runtime: LanguageRuntime, model: Model) -> None:
        self.runtime = runtime
        self._worker = Worker(
            _Host,
            runtime,
            model.folder,
            limit=TimeLimit(_LOAD_SECONDS, math.inf),
            environment=runtime.environment(),
            python=interpreter_of(runtime.tools),
        )

    def score(self, windows: Sequence[Tokens], top: int) -> list[TokenScores]:
        """Return what the model says of the tokens of each window; see :meth:`LanguageSession.score`."""
        answers = self._call("score", list(windows), top, tokens=sum(map(len, windows)))
        return [TokenScores(**answer) for answer in answers]

    def generate(self, prompt: Tokens, count: int) -> Generation:
        """Continue a prompt greedily with up to ``count`` tokens."""
        answer = self._call("generate", prompt, count, tokens=len(prompt) + count)
        return Generation(**{**answer, "ids": tuple(answer["ids"])})

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text as the server would."""
        ids: list[int] = self._call("tokenize", text)
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out."""
        return str(self._call("detokenize", list(ids)))

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt that the server makes of a chat."""
        return str(self._call("render", [dict(message) for message in messages]))

    def evidence(self) -> dict[str, Any]:
        """Return what is really executed."""
        executed: dict[str, Any] = self._call("evidence")
        return executed

    def load_seconds(self) -> float:
        """Seconds that loading took, the library's imports by the runtime included."""
        return float(self._call("load_seconds"))

    def _call(self, method: str, *arguments: Any, tokens: int = 0) -> Any:
        limit = TimeLimit(_LEAST_SECONDS + _SECONDS_PER_TOKEN * tokens, math.inf)  # the child waits for its own children
        return self._worker.call(method, *arguments, limit=limit)


def make_language_runtime(name: str, fields: Mapping[str, Any]) -> LanguageRuntime:
    """Make the runtime that a manifest names.

    Raises:
        UserError: When there is no such runtime, or this mopt does not know one of its options.
    """
    kind: type[LanguageRuntime] = load("language_runtimes", name)
    if unknown := sorted(fields.keys() - {field.name for field in dataclasses.fields(kind)}):
        raise UserError(f"the manifest asks {name} for {', '.join(unknown)}", "build it again with this mopt")
    return kind(**fields)
