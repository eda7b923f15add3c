"""A GPT run as a model of lm-eval (EleutherAI/lm-evaluation-harness): scored in fp32, decoded greedily.

Import it only where lm-eval is installed; `fpm_cli.inference.harness` checks that.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from fpm_cli.errors import UsageError
from fpm_cli.inference.generate import continue_rows
from fpm_cli.inference.sampling import SamplingConfig
from fpm_cli.inference.trained_model import TrainedModel
from fpm_cli.models.gpt import GPT
from fpm_cli.progress import StageReport, ignore_stage_report

Request = tuple[tuple[str, str], list[int], list[int]]  # context and continuation, the ids of each
Scored = tuple[float, bool]  # log-probability in nats, and whether greedy decoding would give the same

_TOKENS_PER_BATCH = 2048
_PROMPTS_PER_BATCH = 16
_DEFAULT_NEW_TOKENS = 256  # as lm-eval's own models
_GREEDY = {"do_sample": False, "temperature": 0.0}


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """What lm-eval asks of a model, answered by a GPT.

    As in lm-eval's model of transformers: texts are encoded without special tokens, a text without context
    follows the token that begins a document, and contexts that are too long lose their beginning.
    """

    def __init__(self, trained: TrainedModel, report: StageReport = ignore_stage_report):
        """Wrap a GPT; `report` is called with each stage's progress.

        Raises:
            UsageError: the run is no GPT.
        """
        super().__init__()
        if not isinstance(trained.model, GPT):
            raise UsageError(f"{trained.config.name} is no GPT; lm-eval scores models that continue texts")
        self._trained, self._model, self._report = trained, trained.model, report
        self._device = trained.device
        self.max_length = trained.config.model.max_positions

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        eod = self._trained.tokenizer.special.eod
        assert eod is not None, "every tokenizer of a GPT has <eod>"
        return eod

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context: `<eod>`, after which every document of a corpus begins."""
        return self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text, without special tokens."""
        return self._trained.tokenizer.encode(string)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Scored]:
        """Log-probability of each continuation after its context.

        Raises:
            UsageError: a continuation has no token of its own, or more than the run has positions.
        """
        for context, continuation in (request.args for request in requests):
            if not context and not self.tok_encode(continuation):
                raise UsageError(f"the text {continuation!r} has no token, so it cannot be scored")
        scored: list[Scored] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scored

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-probability of each whole text, in windows of `max_length` tokens."""
        windows: list[Request] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            (text,) = request.args
            for window in get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            ):
                windows.append((("", text), *make_disjoint_window(window)))
                owners.append(index)
        totals = [0.0] * len(requests)
        for index, (log_probability, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[index] += log_probability
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The greedy continuation of each context, up to the first of its stop sequences.

        Raises:
            UsageError: a task asks for sampling or beams, or for more tokens than the run has positions.
        """
        arguments = [(context, *self._stopping(dict(given))) for context, given in self._args(requests)]
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for index, (_, num_new, stops) in enumerate(arguments):
            groups.setdefault((num_new, stops), []).append(index)
        texts = [""] * len(requests)
        done = 0
        for (num_new, stops), indices in groups.items():
            for start in range(0, len(indices), _PROMPTS_PER_BATCH):
                batch = indices[start : start + _PROMPTS_PER_BATCH]
                contexts = [arguments[index][0] for index in batch]
                for index, text in zip(batch, self._continue(contexts, num_new, stops), strict=True):
                    texts[index] = text
                done += len(batch)
                self._report("generating", done, len(requests))
        return texts

    def _loglikelihood_tokens(self, requests: Sequence[Request], **options: Any) -> list[Scored]:
        """Score continuations; the order of the results is that of the requests."""
        rows: list[list[int]] = []  # context and continuation, cut to what the network can read
        for (_, text), context, continuation in requests:
            if not continuation:
                raise UsageError(
                    f"the answer {text[:40]!r} has no token of its own: the tokenizer joins it to the "
                    "text before it; put a space or a line break between them (target_delimiter)"
                )
            if len(continuation) > self.max_length:
                raise UsageError(
                    f"a continuation of {len(continuation):,} tokens is longer than the {self.max_length:,} "
                    f"positions of {self._trained.config.name}"
                )
            rows.append([*(context or [self.prefix_token_id]), *continuation][-(self.max_length + 1) :])
        scored: list[Scored] = [(0.0, True)] * len(rows)
        done = 0
        with torch.inference_mode():
            for batch in _batches([len(row) for row in rows]):
                logits = self._logits([rows[index][:-1] for index in batch])
                for index, row_logits in zip(batch, logits, strict=True):
                    continuation, length = requests[index][2], len(rows[index]) - 1
                    scored[index] = _score(row_logits[length - len(continuation) : length], continuation)
                done += len(batch)
                self._report("scoring", done, len(rows))
        return scored

    def _logits(self, rows: Sequence[list[int]]) -> Tensor:
        """Token ids of B rows, the longest of S -> (B, S, V); what is behind a shorter row has no meaning."""
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self._device)
        return self._model.logits(tokens)

    def _continue(self, contexts: Sequence[str], num_new: int, stops: Sequence[str]) -> Iterator[str]:
        tokenizer, eod = self._trained.tokenizer, self.eot_token_id
        rows = [self.tok_encode(context)[-(self.max_length - num_new) :] for context in contexts]
        rows = [row or [self.prefix_token_id] for row in rows]

        def is_finished(new: list[int]) -> bool:
            return new[-1] == eod or any(stop in tokenizer.decode(new) for stop in stops)

        for new in continue_rows(self._trained, rows, SamplingConfig(num_new, temperature=0), is_finished):
            text = tokenizer.decode(token for token in new if token != eod)
            yield postprocess_generated_text(text, list(stops), None)

    def _stopping(self, given: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
        """The number of new tokens and the stop sequences of a task's `generation_kwargs`."""
        options = dict(normalize_gen_kwargs(given, min(_DEFAULT_NEW_TOKENS, self.max_length // 2)))
        num_new = options.pop("max_gen_toks")
        stops = handle_stop_sequences(options.pop("until"), eos=None)
        unknown = [name for name, value in options.items() if _GREEDY.get(name) != value]
        if unknown:
            raise UsageError(
                f"generation_kwargs: {', '.join(unknown)}: fpm answers lm-eval with greedy decoding; set "
                "until and max_gen_toks only"
            )
        if not 1 <= num_new < self.max_length:
            raise UsageError(
                f"generation_kwargs: max_gen_toks is {num_new:,}; {self._trained.config.name} has "
                f"{self.max_length:,} positions for the context and the new tokens"
            )
        return num_new, tuple(stop for stop in stops if stop)

    @staticmethod
    def _args(requests: Sequence[Instance]) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from (request.args for request in requests)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows in batches of similar lengths, the longest first: at most _TOKENS_PER_BATCH, or one."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > _TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _score(logits: Tensor, continuation: Sequence[int]) -> Scored:
    """Logits (n, V) at each token of a continuation of n tokens -> its log-probability."""
    targets = torch.tensor(continuation, device=logits.device)
    log_probabilities = logits.double().log_softmax(-1).gather(1, targets[:, None])
    return float(log_probabilities.sum()), bool((logits.argmax(-1) == targets).all())
