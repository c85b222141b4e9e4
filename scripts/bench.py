"""Measure what the framework costs, one table row a figure.

    python scripts/bench.py                 every row
    python scripts/bench.py decode load     some of them
    python scripts/bench.py --json          one JSON object a row

Times are medians of five. Memory is the peak resident set over what was resident before it, each figure from a process
of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from unimedvl.config import LlmConfig, ModelConfig
from unimedvl.data.bins import fullest
from unimedvl.data.packing import pack
from unimedvl.data.tasks import TrainTransforms
from unimedvl.geometry import resize_size
from unimedvl.model.cache import CacheRow, KVCache
from unimedvl.model.loss import LMHead
from unimedvl.model.mot import MLP
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.processor import ImageTransform
from unimedvl.profiling import OpCounter
from unimedvl.types import SpecialTokens, TextSegment, VaeSegment

REPEATS = 5
SPECIAL = SpecialTokens(1, 2, 3, 4)
NANO = ModelConfig.preset("nano")
# 125 M parameters in two experts, without the vision encoder.
SMALL = ModelConfig(
    llm=LlmConfig(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=32768,
    ),
    max_latent_size=16,
    visual_und=False,
)


@dataclass(frozen=True)
class Row:
    """One figure: what, how much, in which unit, and the bound or comparison that it has."""

    name: str
    value: float
    unit: str
    note: str = ""


def median_seconds(act: Callable[[], object], repeats: int = REPEATS) -> float:
    act()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def text(count: int, vocab_size: int) -> TextSegment:
    generator = torch.Generator().manual_seed(count)
    return TextSegment(tuple(torch.randint(0, vocab_size, (count,), generator=generator).tolist()))


# --- operators --------------------------------------------------------------------------------------------


def operators() -> Iterator[Row]:
    """Tensor operators and host synchronizations of one forward at full depth."""
    config = replace(NANO, llm=replace(NANO.llm, num_hidden_layers=28))
    model = UniMedVL.initialized(config)
    cache = KVCache(config.llm, 1000)
    full, without_images = cache.open(300), cache.open(300)
    prompts = pack([(text(20, 400),), (text(20, 400),)], config, SPECIAL)
    token = pack([(TextSegment((5,)),)], config, SPECIAL, start_positions=[20], logits="last")
    image = VaeSegment(latent=torch.randn(config.vae.latent_channels, 8, 8), noised=True, timestep=0.5)
    guided = pack([(image,)] * 3, config, SPECIAL, start_positions=[21, 21, 20])
    with torch.no_grad():
        model(prompts, [full, without_images])
        with OpCounter() as decode:
            model(token, [full])
        without_text = full.fork(100)
        with OpCounter() as flow:
            model(guided, [full, without_text, without_images])
    yield Row("operators per decoded token, 28 layers", sum(decode.ops.values()), "ops", "bound 1450, published 1980")
    yield Row("synchronizations per decoded token", sum(decode.syncs.values()), "syncs", "bound 0, published 112")
    yield Row("operators of a three-branch flow pass", sum(flow.ops.values()), "ops", "bound 3000, published 11520")
    yield Row("synchronizations of a flow pass", sum(flow.syncs.values()), "syncs", "bound 0, published 336")


# --- decoding ---------------------------------------------------------------------------------------------


def decode() -> Iterator[Row]:
    """Greedy decoding of one sequence, eager and with compiled MLPs, runs of the two taking turns."""
    for context in (512, 4096):
        figures = in_fresh_process("_decode", str(context))
        ratio = f"{figures['compiled'] / figures['eager']:.2f} x eager"
        yield Row(
            f"decode eager, context {context}", figures["eager"], "tokens/s", f"{figures['parameters']:.1f} M model"
        )
        yield Row(f"decode compiled MLPs, context {context}", figures["compiled"], "tokens/s", ratio)
        yield Row(f"prefill and decode peak memory, context {context}", figures["mb"], "MB", "beside the weights")


@torch.inference_mode()
def _decode(context: str, count: int = 32) -> dict[str, float]:
    model = UniMedVL.initialized(SMALL)
    before = resident_mb("VmRSS")
    row = KVCache(SMALL.llm, int(context) + 100).open(int(context) + 100)
    model(pack([(text(int(context), SMALL.llm.vocab_size),)], SMALL, SPECIAL), [row])
    _decode_seconds(model, row, count)
    figures = {"mb": resident_mb("VmHWM") - before}
    mlps = [module for module in model.modules() if isinstance(module, MLP)]
    compiled = [torch.compile(mlp.forward, fullgraph=True) for mlp in mlps]
    plain = [mlp.forward for mlp in mlps]
    seconds: dict[str, list[float]] = {"eager": [], "compiled": []}
    for turn in range(REPEATS + 1):
        for name, forwards in (("eager", plain), ("compiled", compiled)):
            for mlp, forward in zip(mlps, forwards, strict=True):
                mlp.forward = forward
            spent = _decode_seconds(model, row, count)
            if turn:  # the first compiles
                seconds[name].append(spent)
    figures |= {name: count / statistics.median(times) for name, times in seconds.items()}
    return {**figures, "parameters": sum(parameter.numel() for parameter in model.parameters()) / 1e6}


def _decode_seconds(model: UniMedVL, row: CacheRow, count: int) -> float:
    """Time for ``count`` tokens behind a row, which is left as it was."""
    length, token, start = len(row), 5, time.perf_counter()
    for _ in range(count):
        batch = pack([(TextSegment((token,)),)], model.config, SPECIAL, start_positions=[len(row)], logits="last")
        logits = model(batch, [row]).logits
        assert logits is not None
        token = int(logits[0].argmax())
    row.truncate(length)
    return time.perf_counter() - start


# --- inference --------------------------------------------------------------------------------------------


def infer() -> Iterator[Row]:
    """The pipeline on the 125 M model: text at batch 1 and 8, images by number of guidance branches, start-up."""
    with tempfile.TemporaryDirectory() as folder:
        in_fresh_process("_write_pipeline", folder)
        figures = in_fresh_process("_infer", folder)
        command = [sys.executable, "-m", "unimedvl.infer"]
        helping = median_seconds(lambda: subprocess.check_output([*command, "--help"]))
        ask = [*command, "vqa", "--model", folder + "/model", "--prompt", "What is shown?", "--max-new-tokens", "1"]
        image = ["--image", folder + "/image.png", "--json"]
        starting = median_seconds(lambda: subprocess.check_output([*ask, *image], stderr=subprocess.DEVNULL))
    for batch in (1, 8):
        yield Row(
            f"text, batch {batch}", figures[f"tokens {batch}"], "tokens/s", "64 tokens each, image and prefill included"
        )
    for branches in (1, 2, 3):
        note = f"{figures[f'image {branches}'] / figures['image 1']:.2f} x one branch"
        yield Row(f"image 256 x 256, {branches} branches", figures[f"image {branches}"], "s", f"10 passes; {note}")
    yield Row("peak memory of all these", figures["mb"], "MB", "beside the mapped weights")
    yield Row("start-up to a first answer", starting, "s", "a process of its own")
    yield Row("--help", helping, "s", "bound 1.5")


def _write_pipeline(folder: str) -> dict[str, float]:
    from PIL import Image

    from unimedvl.model.vae import Autoencoder
    from unimedvl.model.weights import save_checkpoint

    tokenizer = Path(__file__).parent.parent / "tests" / "golden" / "tiny" / "checkpoint"
    config = replace(SMALL, visual_und=True, vit=NANO.vit, vae=NANO.vae)
    model = UniMedVL.initialized(config)
    torch.nn.init.normal_(model.llm2vae.weight, std=0.02)
    save_checkpoint(Path(folder) / "model", model, Autoencoder(config.vae), tokenizer_from=tokenizer)
    Image.effect_noise((200, 200), 80).save(Path(folder) / "image.png")
    return {}


def _infer(folder: str) -> dict[str, float]:
    from unimedvl import UniMedVLPipeline

    pipe = UniMedVLPipeline.from_pretrained(Path(folder) / "model", device="cpu")
    before, image = resident_mb("VmRSS"), Path(folder) / "image.png"
    figures: dict[str, float] = {}
    for batch in (1, 8):
        seconds = median_seconds(
            lambda n=batch: pipe.understand([[image]] * n, ["What is shown?"] * n, max_new_tokens=64)
        )
        figures[f"tokens {batch}"] = 64 * batch / seconds
    scales = {1: (1.0, 1.0), 2: (4.0, 1.0), 3: (4.0, 2.0)}
    for branches, (text_scale, image_scale) in scales.items():
        options = {"text_scale": text_scale, "image_scale": image_scale, "interval": (0.0, 1.0), "steps": 11}
        figures[f"image {branches}"] = median_seconds(
            lambda own=options: pipe.generate("A brain MRI.", size=(256, 256), **own)
        )
    return {**figures, "mb": resident_mb("VmHWM") - before}


# --- memory of the loss -----------------------------------------------------------------------------------


def loss() -> Iterator[Row]:
    """Peak memory and time of cross-entropy, forward and backward, over 2,048 tokens and 152,064 words."""
    plain, chunked = (in_fresh_process(name) for name in ("_plain_loss", "_chunked_loss"))
    yield Row("cross-entropy with all logits, peak memory", plain["mb"], "MB", f"{plain['seconds']:.1f} s")
    yield Row("cross-entropy in chunks, peak memory", chunked["mb"], "MB", f"{chunked['seconds']:.1f} s")
    yield Row("ratio of the two", chunked["mb"] / plain["mb"], "x", "bound 0.3")


def _measure_loss(compute: Callable[[LMHead, torch.Tensor, torch.Tensor], torch.Tensor]) -> dict[str, float]:
    head, hidden = LMHead(512, 152064), torch.randn(2048, 512, requires_grad=True)
    labels = torch.randint(0, 152064, (2048,))
    before, start = resident_mb("VmRSS"), time.perf_counter()
    compute(head, hidden, labels).sum().backward()
    return {"mb": resident_mb("VmHWM") - before, "seconds": time.perf_counter() - start}


def _plain_loss() -> dict[str, float]:
    return _measure_loss(lambda head, hidden, labels: F.cross_entropy(head(hidden), labels, reduction="none"))


def _chunked_loss() -> dict[str, float]:
    return _measure_loss(lambda head, hidden, labels: head(hidden, labels))


# --- data -------------------------------------------------------------------------------------------------


def data() -> Iterator[Row]:
    """Fill and speed of the packer alone, on the simulated mix, and of the whole loader on files of that mix."""
    for budget in (11_520, 36_864):
        figures = in_fresh_process("_pack_lengths", str(budget))
        published = {11_520: "80.5", 36_864: "93.0"}[budget]
        yield Row(f"fill of {budget} tokens", figures["fill"] * 100, "%", f"bound 98, published rule {published}")
        yield Row(f"packer, {budget} tokens", figures["rate"], "samples/s", "lengths only, 32 samples ahead")
    with tempfile.TemporaryDirectory() as folder:
        in_fresh_process("_write_samples", folder)
        for workers in (0, 2):
            figures = in_fresh_process("_load_samples", folder, str(workers))
            note = f"{figures['tokens'] / 1000:.0f} k tokens/s, fill {figures['fill'] * 100:.1f} %"
            yield Row(f"loader, {workers} workers", figures["rate"], "samples/s", note)


def _simulated(generator: random.Random) -> tuple[str, int, int]:
    """Family, side of a square image, and text tokens: 45 % questions, 30 % text-to-image, 25 % edits."""
    chance, text = generator.random(), generator.randint(20, 200)
    if chance < 0.45:
        return "vqa", generator.randint(224, 980), text
    return "t2i" if chance < 0.75 else "edit", generator.randint(256, 1024), text


def _pack_lengths(budget: str) -> dict[str, float]:
    limit, generator, transforms = int(budget), random.Random(0), TrainTransforms()
    window: list[int] = []
    fills, count, start = [], 0, time.perf_counter()

    def tokens(side: int, transform: ImageTransform) -> int:
        width, height = resize_size(side, side, transform.max_side, transform.min_side, transform.stride)
        return (width // transform.stride) * (height // transform.stride) + 2

    while len(fills) < 1000:
        while len(window) < 32:
            family, side, length = _simulated(generator)
            vae = replace(transforms.vae, min_side=256)
            length += 0 if family == "t2i" else tokens(side, transforms.vit)
            length += {"vqa": 0, "t2i": 1, "edit": 2}[family] * tokens(side, vae)
            window += [length] if length <= limit else []
        chosen = fullest(window, limit)
        fills.append(sum(window[number] for number in chosen) / limit)
        count += len(chosen)
        window = [length for number, length in enumerate(window) if number not in set(chosen)]
    return {"fill": statistics.mean(fills), "rate": count / (time.perf_counter() - start)}


def _write_samples(folder: str, count: int = 150) -> dict[str, float]:
    from PIL import Image

    generator, rows = random.Random(0), {"vqa": [], "t2i": [], "edit": []}
    for number in range(count):
        family, side, length = _simulated(generator)
        name = f"{number}.jpg"
        Image.effect_noise((side, side), 60).convert("RGB").save(Path(folder) / name, quality=90)
        human = ("<image>" if family == "vqa" else "") + "a " * (length // 2)
        message = [{"from": "human", "value": human}, {"from": "gpt", "value": "b " * (length // 2)}]
        images = {"input_img": [name]} if family != "t2i" else {}
        images |= {"output_img": [name]} if family != "vqa" else {}
        rows[family].append({"main_task_type": family, "message": message, **images})
    for family, own in rows.items():
        (Path(folder) / f"{family}.jsonl").write_text("\n".join(map(json.dumps, own)))
    return {}


def _load_samples(folder: str, workers: str) -> dict[str, float]:
    from unimedvl.data.loader import PackedLoader
    from unimedvl.data.mixture import FamilyWeights
    from unimedvl.data.settings import DataSettings, SourceSettings
    from unimedvl.data.stream import Stream
    from unimedvl.data.tasks import Drafter
    from unimedvl.processor import TextCodec

    torch.set_num_threads(1)
    families = {"vqa": "i2t", "t2i": "t2i", "edit": "interleaved"}
    settings = DataSettings(
        sources=tuple(SourceSettings(name, own, (f"{folder}/{name}.jsonl",)) for name, own in families.items()),
        weights=FamilyWeights(i2t=45, t2i=30, interleaved=25),
        transforms=TrainTransforms(vae=ImageTransform(1024, 256, 16)),
        workers=int(workers),
        cache=Path(folder) / "cache",
    )
    codec = TextCodec.from_directory(Path(__file__).parent.parent / "tests" / "golden" / "tiny" / "checkpoint")
    drafter = Drafter(codec, ModelConfig(), settings.transforms, settings.dropout)
    fills, rows, tokens = [], 0, 0
    start = 0.0
    for number, loaded in enumerate(PackedLoader(Stream(settings, drafter))):
        if number == 6:  # past the first windows, which are filled once
            start = time.perf_counter()
        elif number > 6:
            fills.append(loaded.fill)
            rows, tokens = rows + len(loaded.rows), tokens + loaded.batch.length
        if len(fills) == 24:
            break
    seconds = time.perf_counter() - start
    return {"rate": rows / seconds, "tokens": tokens / seconds, "fill": statistics.mean(fills)}


# --- loading ----------------------------------------------------------------------------------------------


def load() -> Iterator[Row]:
    """Loading a checkpoint of 1 GB and touching every weight, against reading its file."""
    with tempfile.TemporaryDirectory() as folder:
        size = in_fresh_process("_write_checkpoint", folder)["mb"]
        runs = [in_fresh_process("_load_checkpoint", folder) for _ in range(REPEATS)]
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    yield Row("checkpoint", size, "MB")
    yield Row("peak memory of loading", median["mb"], "MB", f"{median['mb'] / size:.2f} x the file, bound 1.15")
    ratio = median["seconds"] / median["read"]
    yield Row("time of loading", median["seconds"], "s", f"{ratio:.2f} x reading the file, bound 1.5")


def _write_checkpoint(folder: str) -> dict[str, float]:
    from unimedvl.model.weights import save_checkpoint

    llm = replace(SMALL.llm, num_hidden_layers=28, intermediate_size=2560)
    save_checkpoint(Path(folder) / "model", UniMedVL.initialized(replace(SMALL, llm=llm)))
    return {"mb": (Path(folder) / "model" / "ema.safetensors").stat().st_size / 2**20}


def _load_checkpoint(folder: str) -> dict[str, float]:
    from unimedvl.model.weights import load_model

    path = Path(folder) / "model"
    start = time.perf_counter()
    with open(path / "ema.safetensors", "rb") as file:
        block = bytearray(2**24)
        while file.readinto(block):
            pass
    read = time.perf_counter() - start
    before, start = resident_mb("VmRSS"), time.perf_counter()
    model = load_model(path)
    for tensor in model.state_dict().values():
        tensor.sum()
    seconds = time.perf_counter() - start
    return {"mb": resident_mb("VmHWM") - before, "seconds": seconds, "read": read}


# --- training ---------------------------------------------------------------------------------------------


def train() -> Iterator[Row]:
    """One optimizer step over 2,048 packed tokens: speed, and memory beside weights, gradients, averages and EMA."""
    for name in ("nano", "small"):
        for checkpointing in ("none", "selective", "full"):
            figures = in_fresh_process("_train", name, checkpointing)
            note = f"{figures['parameters']:.0f} M, {figures['tflops'] * 1000:.0f} GFLOP/s, peak {figures['mb']:.0f} MB"
            yield Row(
                f"train {name}, checkpointing {checkpointing}", figures["rate"], "tokens/s", f"{note} of activations"
            )


def _train(name: str, checkpointing: str) -> dict[str, float]:
    from unimedvl.train.backend import Plain
    from unimedvl.train.ema import Ema
    from unimedvl.train.flops import batch_flops
    from unimedvl.train.settings import OptimizerSettings, RuntimeSettings

    config = NANO if name == "nano" else replace(SMALL, visual_und=True, vit=NANO.vit)
    backend = Plain(
        UniMedVL.initialized(config),
        RuntimeSettings(device="cpu", precision="fp32", checkpointing=checkpointing),  # pyright: ignore[reportArgumentType]
        OptimizerSettings(),
    )
    ema = Ema(backend.local_master(), 0.995)
    batch = _training_batch(config)

    def step() -> None:
        ce, mse = backend.losses(batch)
        backend.backward(0.25 * ce / max(len(batch.ce_index), 1) + mse / len(batch.velocity_index), last=True)
        backend.step(1e-4)
        ema.update(backend.local_master())

    before = resident_mb("VmRSS")
    # Gradients, the optimizer's two averages, and the copies that one update makes of the weights' size.
    lasting = 3 * sum(parameter.numel() for parameter in backend.trained.values()) * 4 / 2**20
    seconds = median_seconds(step)
    tflops = batch_flops(config, batch, recompute=backend.settings.checkpointing) / seconds / 1e12
    return {
        "rate": batch.length / seconds,
        "tflops": tflops,
        "mb": resident_mb("VmHWM") - before - lasting,
        "parameters": sum(parameter.numel() for parameter in backend.trained.values()) / 1e6,
    }


def _training_batch(config: ModelConfig, tokens: int = 2048):
    """Questions about images of 112 pixels, images of 128 pixels to make, and text, up to the budget."""
    from unimedvl.types import VitSegment

    generator = torch.Generator().manual_seed(0)

    def image() -> VaeSegment:
        shape = (config.vae.latent_channels, 16, 16)
        latent, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        return VaeSegment(latent=latent, noised=True, timestep=0.5, noise=noise)

    def words(loss: bool) -> TextSegment:
        ids = torch.randint(5, config.llm.vocab_size, (12,), generator=generator).tolist()
        return TextSegment(tuple(ids), loss)

    samples, length = [], 0
    while True:
        seen = VitSegment(torch.randn(3, 112, 112, generator=generator))
        sample = (seen, words(False), words(True)) if len(samples) % 2 == 0 else (words(False), image())
        length += 90 if len(samples) % 2 == 0 else 78
        if length > tokens:
            return pack(samples, config, SPECIAL)
        samples.append(sample)


# --- importing --------------------------------------------------------------------------------------------


def imports() -> Iterator[Row]:
    """What importing adds to ``import torch``."""
    for module in ("unimedvl", "unimedvl.model.weights"):
        code = f"import torch, time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        runs = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(REPEATS)]
        yield Row(f"import {module}", statistics.median(map(float, runs)), "s", "bound 0.5")


# --- running ----------------------------------------------------------------------------------------------

BENCHMARKS: dict[str, Callable[[], Iterator[Row]]] = {
    "operators": operators,
    "decode": decode,
    "infer": infer,
    "loss": loss,
    "data": data,
    "load": load,
    "train": train,
    "imports": imports,
}


def resident_mb(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process, from Linux's status file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def in_fresh_process(function: str, *arguments: str) -> dict[str, float]:
    """Call a function of this file in a process of its own, so that its peak memory is its own."""
    code = f"import bench, json; print(json.dumps(bench.{function}(*{arguments!r})))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    if run.returncode:
        raise RuntimeError(f"{function} failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; use {', '.join(BENCHMARKS)}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {device}", file=sys.stderr)
    for name in options.names or BENCHMARKS:
        for row in BENCHMARKS[name]():
            if options.json:
                print(json.dumps(asdict(row)), flush=True)
            else:
                print(f"{row.name:<52} {row.value:>10.4g} {row.unit:<9} {row.note}", flush=True)


if __name__ == "__main__":
    main()
