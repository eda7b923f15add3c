"""A whole training step of each family beside transformers: time, its matrix products, peak memory.

    python -m benchmarks.step --threads 1 --rounds 7
    python -m benchmarks.step --case "GPT 128 x 64, 1 x 128" --earlier ../checkout-of-another-commit
    python -m benchmarks.step --proxies

Each side is a process of its own, with the same allocator settings, and trains with dropout 0.1: forward,
backward, clipping, AdamW. The sides take turns, a step at a time; figures are medians over the rounds. Before
anything is timed, fpm and transformers must compute the same logits from the same weights. An eighth of
BERT's batch is padding, for which fpm computes nothing, as in pretraining. One row compares a step with its
matrix products alone, those of the real tokens, through torch (MKL on x86).
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measurements import Measurement, measurement, parse_arguments, report

VOCABULARY = 8000
HEAD_SIZE = 64
TOLERANCE = 2e-4  # of logits whose standard deviation is about 1
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # glibc's mallopt
STEPS_BEFORE_TIMING = 3


@dataclass(frozen=True)
class Case:
    """One network and batch; `decoder_length` of the encoder-decoder only."""

    family: str
    layers: int
    width: int
    batch: int
    length: int
    decoder_length: int = 0
    proxy_of: str = ""  # a preset whose proxy is trained as it is

    @property
    def name(self) -> str:
        """As in `--case`."""
        if self.proxy_of:
            return f"proxy of {self.proxy_of}"
        lengths = f"{self.length}/{self.decoder_length}" if self.decoder_length else str(self.length)
        kind = {"gpt": "GPT", "bert": "BERT", "encdec": "encoder-decoder"}[self.family]
        return f"{kind} {self.layers} x {self.width}, {self.batch} x {lengths}"


CASES = (
    Case("bert", 12, 256, 8, 128),
    Case("bert", 12, 256, 8, 512),
    Case("gpt", 12, 256, 8, 128),
    Case("gpt", 12, 256, 8, 512),
    Case("encdec", 12, 256, 8, 128, 64),
    Case("gpt", 128, 64, 1, 128),
    Case("gpt", 128, 64, 8, 128),
)


# What is asked for, by the first words of a case: against transformers, and in units of the matrix products.
ASKED = {
    "BERT 12 x 256, 8 x 128": (1.5, 1.05),
    "BERT 12 x 256, 8 x 512": (1.8, 0.95),
    "GPT 12 x 256, 8 x 128": (1.25, 1.05),
    "GPT 12 x 256, 8 x 512": (1.6, 0.95),
    "encoder-decoder 12 x 256, 8 x 128/64": (1.4, None),
    "GPT 128 x 64, 1 x 128": (None, 2.3),
}
PROXIES = {"CPM-X-L": "gpt", "BERT-E-E": "bert", "CPM-2-X-M": "encdec"}


def main() -> None:
    """Measure the cases asked for and print their ratios."""
    options = parse_arguments(__doc__, add_arguments)
    if options.worker:
        serve(options.worker[0], Case(**json.loads(options.worker[1])), options.threads)
        return
    cases = list(map(proxy_case, PROXIES)) if options.proxies else CASES
    chosen = [case for case in cases if not options.case or case.name in options.case]
    report((row for case in chosen for row in measure(case, options)), options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--proxies", action="store_true", help="the laptop-sized proxies of three presets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--earlier", type=Path, help="a checkout of another commit of fpm, timed too")
    parser.add_argument("--without", action="append", default=[], choices=["reference", "transformers"])
    parser.add_argument("--worker", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)


def proxy_case(preset: str) -> Case:
    """The proxy of a preset with its own sizes, batch and vocabulary."""
    from fpm_cli.config.resolve import resolve

    config = resolve(preset, proxy=True, environment={}).config
    batch = min(config.train.micro_batch, config.train.global_batch)
    sizes = config.model.num_layers, config.model.hidden_size, batch
    lengths = config.train.sequence_length, config.train.decoder_length
    return Case(PROXIES[preset], *sizes, *lengths, proxy_of=preset)


def measure(case: Case, options: argparse.Namespace) -> list[Measurement]:
    """Time the sides of one case in turn."""
    here = Path(__file__).resolve().parent.parent
    checkouts = {"fpm": here, "reference": here, "transformers": here}
    for side in options.without:
        del checkouts[side]
    if options.earlier:
        checkouts["earlier"] = options.earlier.resolve()
    workers = {side: start_worker(side, case, options.threads, path) for side, path in checkouts.items()}
    try:
        ready = {side: ask(worker, "warm") for side, worker in workers.items()}
        seconds: dict[str, list[float]] = {side: [] for side in workers}
        products: list[float] = []
        for _ in range(options.rounds):
            for side, worker in workers.items():
                seconds[side].append(ask(worker, "step")["seconds"])
            products.append(ask(workers["fpm"], "products")["seconds"])
        peaks = {side: ask(worker, "memory")["mib"] for side, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    ours, threads = seconds.pop("fpm"), options.threads
    if "transformers" in ready:
        print(f"{case.name}: logits differ by {ready['transformers']['difference']:.1e}", flush=True)
    asked, units = ASKED.get(case.name, (None, None))
    rows = [
        measurement(
            "training step", case.name, side, ours, times, threads=threads,
            asked=asked if side == "transformers" else None,
        )
        for side, times in seconds.items()
    ]  # fmt: skip
    rows.append(
        measurement(
            "training step", case.name, "its matrix products alone", ours, products, threads=threads,
            asked=None if units is None else round(1 / units, 2), limit="1.00x: nothing but matrix products",
        )
    )  # fmt: skip
    if "transformers" in peaks:
        memory = [peaks["fpm"]], [peaks["transformers"]]
        rows.append(measurement("peak memory of a step", case.name, "transformers", *memory, unit="MiB"))
    return rows


def start_worker(side: str, case: Case, threads: int, checkout: Path) -> "subprocess.Popen[str]":
    """A process that runs one side with the package of a checkout."""
    here = Path(__file__).resolve().parent.parent  # for what an earlier checkout has not: this folder
    path = os.pathsep.join([str(checkout), str(here)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--threads", str(threads)]
    command += ["--worker", side, json.dumps(vars(case))]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def ask(worker: "subprocess.Popen[str]", what: str) -> dict[str, Any]:
    """One line to a worker, one line of JSON back."""
    assert worker.stdin and worker.stdout
    worker.stdin.write(what + "\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        raise SystemExit("a side of the benchmark ended; its message is above")
    return json.loads(answer)  # type: ignore[no-any-return]


def serve(side: str, case: Case, threads: int) -> None:
    """What a worker does: build its side, then answer a line at a time."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    import torch

    torch.set_num_threads(threads)
    config = configuration(case)
    if side == "transformers":
        step, difference = transformers_side(case, config)
    else:
        step, difference = fpm_side(case, config, side), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    before = min(before, resident_mib())
    multiply = products(case, config)
    for line in sys.stdin:
        answer: dict[str, float]
        match line.strip():
            case "warm":
                for _ in range(STEPS_BEFORE_TIMING):
                    step()
                answer = {"difference": difference}
            case "step":
                answer = {"seconds": timed(step, threads)}
            case "products":
                answer = {"seconds": timed(multiply, threads)}
            case _:
                answer = {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before}
        print(json.dumps(answer), flush=True)


def timed(function: Callable[[], None], threads: int) -> float:
    """CPU seconds with one thread, which other work on the machine disturbs less; else wall seconds."""
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    function()
    return clock() - start


def resident_mib() -> float:
    """Memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def configuration(case: Case) -> Any:
    """fpm's configuration of a case, from the family's preset."""
    from fpm_cli.config.resolve import resolve

    if case.proxy_of:
        return resolve(case.proxy_of, proxy=True, environment={}).config
    preset = {"gpt": "CPM-X-S", "bert": "BERT-C", "encdec": "CPM-2-X-S"}[case.family]
    heads = max(1, case.width // HEAD_SIZE)
    values = {
        "model.num_layers": case.layers,
        "model.hidden_size": case.width,
        "model.num_heads": heads,
        "model.head_size": case.width // heads,
        "model.ffn_size": 4 * case.width,
        "model.vocab_size": VOCABULARY,
        "model.max_positions": 0 if case.family == "encdec" else case.length,
        "model.dropout": 0.1,
        "train.sequence_length": case.length,
        "train.global_batch": case.batch,
        "train.micro_batch": case.batch,
        "engine.recompute": "none",
    }
    if case.family == "encdec":
        values["train.decoder_length"] = case.decoder_length
    assignments = [f"{key}={value}" for key, value in values.items()]
    return resolve(preset, proxy=True, environment={}, assignments=assignments).config


def make_batch(case: Case) -> dict[str, Any]:
    """The same random batch for every side; 15 % of BERT's positions are predicted."""
    import torch

    generator = torch.Generator().manual_seed(1)
    vocabulary = configuration(case).model.vocab_size

    def ids(*shape: int) -> Any:
        return torch.randint(10, vocabulary, shape, generator=generator)

    shape = (case.batch, case.length)
    if case.family == "gpt":
        tokens = ids(case.batch, case.length + 1)
        return {
            "tokens": tokens[:, :-1].clone(),
            "labels": tokens[:, 1:].clone(),
            "loss_mask": torch.ones(shape),
        }
    if case.family == "bert":
        lengths = torch.randint(3 * case.length // 4, case.length + 1, (case.batch, 1), generator=generator)
        mask = torch.arange(case.length) < lengths
        chosen = (torch.rand(shape, generator=generator) < 0.15) & mask
        return {
            "tokens": ids(*shape),
            "token_types": (torch.arange(case.length) > lengths // 2).long(),
            "attention_mask": mask,
            "labels": ids(*shape),
            "loss_mask": chosen.float(),
            "sentence_order": torch.randint(0, 2, (case.batch,), generator=generator),
        }
    decoder = (case.batch, case.decoder_length)
    return {
        "encoder_tokens": ids(*shape),
        "encoder_mask": torch.ones(shape, dtype=torch.bool),
        "decoder_tokens": ids(*decoder),
        "labels": ids(*decoder),
        "loss_mask": torch.ones(decoder),
    }


def fpm_network(config: Any) -> Any:
    """Weights of a size that makes logits vary by about 1."""
    import torch

    from fpm_cli.models.build import build_model

    model = build_model(config)
    with torch.no_grad():
        torch.manual_seed(2)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def fpm_side(case: Case, config: Any, side: str) -> Callable[[], None]:
    """A step of fpm: compiled, by the reference, or as another commit has it."""
    import torch

    model, batch = fpm_network(config), make_batch(case)
    if case.family == "bert" and side != "earlier":
        batch = without_padding(batch)
    optimizer: Any
    if side == "fpm":
        from fpm_cli.engine.flat_optimizer import FlatAdamW
        from fpm_cli.ops.selection import is_compiled

        if not is_compiled(next(model.parameters())):
            raise SystemExit("the compiled operators are not built: fpm kernels build")
        optimizer = FlatAdamW(model, config)
    else:
        if side == "reference":
            from fpm_cli.ops.selection import select

            select("reference")
        optimizer = adamw(model, config)

    def step() -> None:
        losses = model(batch)
        counts = model.num_predictions(batch)
        loss = sum(losses[name] / counts[name] for name in losses)
        loss.backward()
        if side == "fpm":
            norm = optimizer.clip_gradients()
            optimizer.begin_step(0.0, lambda: norm)
            optimizer.step()
            optimizer.end_step()
        else:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
            optimizer.step()
        for parameter in model.parameters():
            parameter.grad = None

    return step


def without_padding(batch: dict[str, Any]) -> dict[str, Any]:
    """A BERT's batch as pretraining gives it to the network, see `fpm_cli.engine.batches`."""
    import torch

    from fpm_cli.objectives.unpad import unpad

    packed = unpad({name: tensor.numpy() for name, tensor in batch.items()})
    tensors = {name: torch.from_numpy(array) for name, array in packed.items()}
    return {**tensors, "masked_positions": tensors["loss_mask"].nonzero()[:, 0]}


def adamw(model: Any, config: Any) -> Any:
    """torch's fastest AdamW, with weight decay on matrices only."""
    import torch

    train = config.train
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (train.beta1, train.beta2)
    return torch.optim.AdamW(groups, lr=1e-5, betas=betas, eps=train.adam_epsilon, fused=True)


def transformers_side(case: Case, config: Any) -> tuple[Callable[[], None], float]:
    """A step of transformers from fpm's weights, and by how much the logits of both differ."""
    import torch
    import torch.nn.functional as F
    import transformers

    from fpm_cli.interop.architectures import ARCHITECTURES
    from fpm_cli.interop.weight_mapping import to_transformers

    ours, batch = fpm_network(config), make_batch(case)
    architecture = ARCHITECTURES[config.family](config.model)
    state = to_transformers(architecture.mappings, {n: p.detach() for n, p in ours.named_parameters()})
    document = {k: v for k, v in architecture.config.items() if k not in ("model_type", "auto_map")}
    if case.family == "gpt":
        theirs: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**document))
    elif case.family == "bert":
        theirs = transformers.MegatronBertForPreTraining(transformers.MegatronBertConfig(**document))
    else:
        theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**document))
        theirs.lm_head = torch.nn.Linear(config.model.hidden_size, config.model.vocab_size, bias=False)
        theirs.lm_head.weight.data.copy_(state["lm_head.weight"])
        theirs.config.tie_word_embeddings = False
    theirs.load_state_dict(state, strict=False)

    def logits() -> Any:
        if case.family == "gpt":
            return theirs(input_ids=batch["tokens"], use_cache=False).logits
        if case.family == "bert":
            out = theirs.bert(
                input_ids=batch["tokens"],
                attention_mask=batch["attention_mask"].long(),
                token_type_ids=batch["token_types"],
            )
            return out
        return theirs(
            input_ids=batch["encoder_tokens"],
            attention_mask=batch["encoder_mask"].long(),
            decoder_input_ids=batch["decoder_tokens"],
            use_cache=False,
        ).logits

    difference = compare_logits(case, ours.eval(), theirs.eval(), batch, logits)
    if difference > TOLERANCE:
        raise SystemExit(f"{case.name}: logits of fpm and transformers differ by {difference:.1e}")
    del ours
    theirs.train()
    optimizer = adamw(theirs, config)
    chosen = batch["loss_mask"] > 0

    def step() -> None:
        if case.family == "bert":  # transformers has no form that scores the masked positions only
            loss = theirs(
                input_ids=batch["tokens"],
                attention_mask=batch["attention_mask"].long(),
                token_type_ids=batch["token_types"],
                labels=batch["labels"].where(chosen, -100),
                next_sentence_label=batch["sentence_order"],
            ).loss
        else:
            loss = F.cross_entropy(logits().flatten(0, 1).float(), batch["labels"].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), config.train.clip_norm)
        optimizer.step()
        for parameter in theirs.parameters():
            parameter.grad = None

    return step, difference


def compare_logits(
    case: Case, ours: Any, theirs: Any, batch: dict[str, Any], logits: Callable[[], Any]
) -> float:
    """The largest difference between both sides' logits at the real positions."""
    import torch

    with torch.no_grad():
        if case.family == "gpt":
            difference = ours.logits(batch["tokens"]) - logits()
        elif case.family == "bert":
            words, _ = ours.logits(batch["tokens"], batch["token_types"], batch["attention_mask"])
            hidden = logits()[0]
            difference = (words - theirs.cls.predictions(hidden))[batch["attention_mask"]]
        else:
            memory = ours.encode(batch["encoder_tokens"], batch["encoder_mask"])
            ours_logits = ours.decode(batch["decoder_tokens"], memory, batch["encoder_mask"])
            difference = ours_logits - logits()
    return float(difference.abs().max())


def products(case: Case, config: Any) -> Callable[[], None]:
    """The matrix products of a step, forward and backward, through torch: linear layers, attention, head."""
    import torch

    model = config.model
    width, ffn, heads, head = model.hidden_size, model.ffn_size, model.num_heads, model.head_size
    attention = heads * head
    shapes: list[tuple[int, int, int, int]] = []  # rows, inputs, outputs, how often
    scores: list[tuple[int, int, int, int]] = []  # heads of all sequences, queries, keys, how often
    groups = case.batch * heads
    rows, decoder_rows = case.batch * case.length, case.batch * case.decoder_length
    if case.family == "encdec":
        half = case.layers // 2
        for count in (rows, decoder_rows):
            shapes += [(count, width, 3 * attention, half), (count, attention, width, half)]
            shapes += [(count, width, ffn, 2 * half), (count, ffn, width, half)]
        shapes += [(decoder_rows, width, attention, half), (rows, width, 2 * attention, half)]
        shapes += [(decoder_rows, attention, width, half), (decoder_rows, width, model.vocab_size, 1)]
        scores += [(groups, case.length, case.length, half)]
        scores += [(groups, case.decoder_length, case.decoder_length, half)]
        scores += [(groups, case.decoder_length, case.length, half)]
    else:
        lengths = [case.length] * case.batch
        if case.family == "bert":
            lengths = make_batch(case)["attention_mask"].sum(1).tolist()
            rows = sum(lengths)
        shapes += [(rows, width, 3 * attention, case.layers), (rows, attention, width, case.layers)]
        shapes += [(rows, width, ffn, case.layers), (rows, ffn, width, case.layers)]
        predicted = rows if case.family == "gpt" else int(make_batch(case)["loss_mask"].sum())
        shapes.append((predicted, width, model.vocab_size, 1))
        scores += [(heads * lengths.count(length), length, length, case.layers) for length in set(lengths)]
    operands = [(torch.randn(r, i), torch.randn(o, i), torch.randn(r, o), count) for r, i, o, count in shapes]
    maps = [
        (torch.randn(n, q, head), torch.randn(n, k, head), torch.randn(n, q, k), count)
        for n, q, k, count in scores
    ]

    def multiply() -> None:
        for x, weight, grad, count in operands:
            for _ in range(count):
                torch.mm(x, weight.t())
                torch.mm(grad, weight)
                torch.mm(grad.t(), x)
        for query, key, score, count in maps:
            for _ in range(count):
                for _ in range(2):  # scores and their gradient; values and theirs
                    torch.bmm(query, key.transpose(1, 2))
                    torch.bmm(score, key)
                    torch.bmm(score.transpose(1, 2), query)

    return multiply


if __name__ == "__main__":
    main()
