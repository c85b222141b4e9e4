"""A batch of requests from inputs to results: contexts, text, images, each phase for all of them at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unimedvl.config import ModelConfig
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import ReadImage
from unimedvl.infer.decoding import Answer, OnText, decode, join
from unimedvl.infer.flow import Contexts, FlowSampler, noise_for, sample
from unimedvl.infer.requests import Request, Result
from unimedvl.infer.session import Engine, Session
from unimedvl.model.vae import Autoencoder
from unimedvl.processor import Processor, to_pillow
from unimedvl.types import Segment, TextSegment, VaeSegment, VitSegment

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""(what, how many steps) -> a context that gives a function to call after each step."""


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show nothing."""
    yield lambda: None


@dataclass
class _Job:
    """A request on its way."""

    request: Request
    number: int
    before: list[Segment] = field(default_factory=list)
    last_text: list[Segment] = field(default_factory=list)
    texts: list[Segment] = field(default_factory=list)
    size: tuple[int, int] | None = None
    noise: Tensor | None = None
    sessions: dict[str, Session] = field(default_factory=dict)
    result: Result = field(default_factory=Result)

    @property
    def guided(self) -> bool:
        return "image" in self.request.outputs and self.request.image.guidance.uses_text_branch

    @property
    def guided_by_images(self) -> bool:
        return "image" in self.request.outputs and self.request.image.guidance.uses_image_branch


class Runner:
    """Carries batches of requests out.

    Args:
        autoencoder: called for the autoencoder the first time that one is needed.
        truncate: cut pixel values off to integers, as the published code does, instead of rounding.
    """

    def __init__(
        self, engine: Engine, processor: Processor, autoencoder: Callable[[], Autoencoder], *, truncate: bool = False
    ) -> None:
        self.engine = engine
        self.processor = processor
        self.autoencoder = autoencoder
        self.truncate = truncate

    @torch.inference_mode()
    def run(
        self, requests: Sequence[Request], *, progress: Progress = no_progress, on_text: OnText | None = None
    ) -> list[Result]:
        """Results in the order of the requests.

        Raises:
            DataError: an input cannot be used.
            ConfigError: the model lacks a half that a request needs.
            CheckpointError: the autoencoder is needed and not there.
        """
        timings: dict[str, float] = {}
        with _timed(timings, "total"):
            with _timed(timings, "inputs"):
                jobs = [_Job(request, number) for number, request in enumerate(requests)]
                self._prepare(jobs)
            with _timed(timings, "context"):
                self._build_contexts(jobs)
            text_first = [job for job in jobs if job.request.outputs[0] == "text"]
            imaging = [job for job in jobs if "image" in job.request.outputs]
            text_last = [job for job in jobs if job.request.outputs == ("image", "text")]
            with _timed(timings, "text"):
                answers = self._speak(text_first, progress, on_text)
                planned = [(job, answer) for job, answer in zip(text_first, answers, strict=True) if job in imaging]
                if planned:
                    sessions = [job.sessions["full"] for job, _ in planned]
                    join(self.engine, self.processor.codec, sessions, [answer for _, answer in planned])
            with _timed(timings, "image"):
                self._draw(imaging, progress)
            with _timed(timings, "text"):
                self._speak(text_last, progress, on_text)
        for job in jobs:
            job.result.timings = timings
        return [job.result for job in jobs]

    # --- inputs -------------------------------------------------------------------------------------------

    def _prepare(self, jobs: Sequence[_Job]) -> None:
        """Everything that can fail before the model runs: segments, sizes, noise, encoded images."""
        pixels: list[Tensor] = []
        for job in jobs:
            self._check_halves(job.request)
            self._segment(job, pixels)
        latents = iter(self._encoded(pixels) if pixels else ())
        for job in jobs:
            job.before = [VaeSegment(latent=next(latents)) if _waits(s) else s for s in job.before]
            if "image" in job.request.outputs:
                self._place_image(job)

    def _check_halves(self, request: Request) -> None:
        config = self.engine.model.config
        shows = any(isinstance(item, ReadImage) for item in request.inputs)
        makes = "image" in request.outputs or (shows and request.images_as == "vae+vit")
        for half, needed, present in (
            ("visual_und", shows, config.visual_und),
            ("visual_gen", makes, config.visual_gen),
        ):
            if needed and not present:
                verb = "read" if half == "visual_und" else "make"
                raise ConfigError(
                    f"this model was loaded without the half that {verb}s images",
                    where=half,
                    remedy=f"load it with {half}=True from a checkpoint that has it",
                )

    def _segment(self, job: _Job, pixels: list[Tensor]) -> None:
        request, processor = job.request, self.processor
        count = sum(isinstance(item, ReadImage) for item in request.inputs)
        if request.system is not None:
            job.before.append(processor.text(request.system))
        for item in request.inputs:
            job.before, job.last_text = [*job.before, *job.last_text], []
            if isinstance(item, str):
                job.last_text = [processor.text(item)]
            elif request.images_as == "vit":
                job.before.append(processor.to_understand(item.image, count))
            else:
                image, seen = processor.to_condition(item.image)
                job.before += [VaeSegment(pixels=image), seen]
                pixels.append(image)
                job.size = (image.shape[2], image.shape[1])
        job.texts = [s for s in (*job.before, *job.last_text) if isinstance(s, TextSegment)]

    def _encoded(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """Float32 latents (C, h, w) on the host."""
        device, autoencoder = self.engine.model.device, self.autoencoder()
        moments = autoencoder.moments_each([image.to(device) for image in pixels])
        return [autoencoder.latents(*each).float().cpu() for each in moments]

    def _place_image(self, job: _Job) -> None:
        request = job.request
        self.autoencoder()
        config = self.engine.model.config
        side = min(512, config.max_latent_size * config.latent_stride)
        job.size = request.size or job.size or (side, side)
        job.noise = noise_for(self.engine, job.size, request.image.seed)
        if request.latent is not None:
            if request.latent.shape != job.noise.shape:
                raise DataError(
                    f"latent of shape {tuple(request.latent.shape)}",
                    where="latent",
                    remedy=f"give {tuple(job.noise.shape)} for this size",
                )
            job.noise = request.latent

    # --- contexts -----------------------------------------------------------------------------------------

    def _build_contexts(self, jobs: Sequence[_Job]) -> None:
        """Full contexts, and what guidance needs: a fork before the last text, and one of texts only."""
        needs = [self._capacities(job) for job in jobs]
        self._check_lengths(jobs)
        # Rows of one size lie side by side, which static decoding needs.
        largest = max(need["full"] for need in needs)
        needs = [{**need, "full": largest} if not job.guided else need for job, need in zip(jobs, needs, strict=True)]
        cache = self.engine.cache(sum(sum(need.values()) for need in needs))
        for job, need in zip(jobs, needs, strict=True):
            job.sessions["full"] = Session(cache.open(need["full"]))
        self.engine.append([job.sessions["full"] for job in jobs], [job.before for job in jobs])
        follow: list[tuple[Session, list[Segment]]] = []
        for job, need in zip(jobs, needs, strict=True):
            follow.append((job.sessions["full"], job.last_text))
            if job.guided:
                job.sessions["without_text"] = job.sessions["full"].fork(need["without_text"])
            if job.guided_by_images:
                job.sessions["without_images"] = Session(cache.open(need["without_images"]))
                follow.append((job.sessions["without_images"], job.texts))
        self.engine.append([session for session, _ in follow], [part for _, part in follow])

    def _check_lengths(self, jobs: Sequence[_Job]) -> None:
        """Refuse before memory is asked for; an image's tokens share one position, so they do not count."""
        limit = self.engine.model.config.llm.max_position_embeddings
        for job in jobs:
            texts = sum(len(segment.token_ids) for segment in job.texts if isinstance(segment, TextSegment))
            new = job.request.text.max_new_tokens + 2 if "text" in job.request.outputs else 0
            if texts + new > limit:
                raise DataError(
                    f"{texts} tokens of text and {new} new ones exceed the {limit} that the model was made for",
                    where="prompt",
                    remedy="shorten the text or ask for fewer new tokens",
                )

    def _capacities(self, job: _Job) -> dict[str, int]:
        """Slots that each session of a job needs."""
        config = self.engine.model.config
        image = 0
        if job.noise is not None:
            image = job.noise[0].numel() // config.latent_patch_size**2 + 2
        # bos, the answer, eos; the image's scratch lies behind them.
        text = job.request.text.max_new_tokens + 2 if "text" in job.request.outputs else 0
        needs = {"full": _tokens([*job.before, *job.last_text], config) + text + image}
        if job.guided:
            needs["without_text"] = image
        if job.guided_by_images:
            needs["without_images"] = _tokens(job.texts, config) + image
        return needs

    # --- outputs ------------------------------------------------------------------------------------------

    def _speak(self, jobs: Sequence[_Job], progress: Progress, on_text: OnText | None) -> list[Answer]:
        if not jobs:
            return []
        sessions = [job.sessions["full"] for job in jobs]
        options = [job.request.text for job in jobs]
        numbered = None if on_text is None else lambda number, piece: on_text(jobs[number].number, piece)
        with progress("text", max(each.max_new_tokens for each in options)) as step:
            answers = decode(self.engine, self.processor.codec, sessions, options, on_text=numbered, on_token=step)
        for job, answer in zip(jobs, answers, strict=True):
            job.result.text, job.result.token_ids = answer.text, answer.ids
            job.result.finish = answer.finish
        return answers

    def _draw(self, jobs: Sequence[_Job], progress: Progress) -> None:
        if not jobs:
            return
        samplers = []
        for job in jobs:
            assert job.noise is not None
            contexts = Contexts(
                job.sessions["full"], job.sessions.get("without_text"), job.sessions.get("without_images")
            )
            samplers.append(FlowSampler(self.engine, contexts, job.request.image, job.noise))
        with progress("image", max(len(sampler.solver.timesteps) for sampler in samplers)) as step:
            sample(self.engine, samplers, step)
        autoencoder = self.autoencoder()
        for job, sampler in zip(jobs, samplers, strict=True):
            pixels = autoencoder.decode(sampler.latent[None])[0]
            job.result.image = to_pillow(pixels, truncate=self.truncate)


def _waits(segment: Segment) -> bool:
    """Whether a segment's pixels must still be encoded."""
    return isinstance(segment, VaeSegment) and segment.latent is None


def _tokens(segments: Sequence[Segment], config: ModelConfig) -> int:
    """Tokens that segments take in a context, vision markers included."""
    total = 0
    for segment in segments:
        if isinstance(segment, TextSegment):
            total += len(segment.token_ids)
        elif isinstance(segment, VitSegment):
            total += segment.pixels[0].numel() // config.vit.patch_size**2 + 2
        elif isinstance(segment, VaeSegment) and segment.latent is not None:
            total += segment.latent[0].numel() // config.latent_patch_size**2 + 2
    return total


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[name] = timings.get(name, 0.0) + time.perf_counter() - start
