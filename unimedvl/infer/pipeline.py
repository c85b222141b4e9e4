"""The public face of inference: load once, then understand, generate, edit."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image

from unimedvl import __version__
from unimedvl.errors import DataError
from unimedvl.imaging import ReadImage, read_image
from unimedvl.infer.decoding import OnText
from unimedvl.infer.defaults import defaults_of
from unimedvl.infer.placement import DeviceMap, as_device, as_dtype, place
from unimedvl.infer.requests import Request, Result
from unimedvl.infer.runner import Runner, no_progress
from unimedvl.infer.session import Engine
from unimedvl.infer.tasks import Call, EditMode, InferSettings, with_notice, with_options
from unimedvl.model.directory import WeightSet, resolve_directory
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder
from unimedvl.model.weights import load_autoencoder, load_model
from unimedvl.processor import ImageTransforms, Processor, TextCodec, to_pillow

AnyImage = str | Path | bytes | Image.Image | ReadImage
"""A path, the bytes of a file, or an image."""


class UniMedVLPipeline:
    """Answers about images and makes images. For research use only, not for diagnosis.

    Args:
        model: in eval mode.
        autoencoder: called once, when an image must first be encoded or decoded.
        settings: defaults of every call.
        transforms: of input images; the published ones, fitted to the model, by default.
        truncate: cut pixel values off to integers, as the published code does, instead of rounding.
        progress: show progress bars on stderr where it is a terminal.
    """

    def __init__(
        self,
        model: UniMedVL,
        codec: TextCodec,
        autoencoder: Any,
        *,
        model_id: str = "",
        settings: InferSettings | None = None,
        transforms: ImageTransforms | None = None,
        truncate: bool = False,
        progress: bool = False,
    ) -> None:
        self.engine = Engine(model.eval(), codec.special)
        self.processor = Processor(codec, transforms or ImageTransforms().fitted(model.config))
        self.autoencoder = functools.cache(autoencoder)
        self.runner = Runner(self.engine, self.processor, self.autoencoder, truncate=truncate)
        self.model_id = model_id
        self.settings = settings or InferSettings()
        self.progress = progress_bar if progress else no_progress

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        device_map: DeviceMap | None = None,
        weights: WeightSet = "auto",
        und_only: bool = False,
        attention: str = "auto",
        settings: InferSettings | None = None,
        transforms: ImageTransforms | None = None,
        truncate: bool = False,
        progress: bool = False,
        **changes: Any,
    ) -> UniMedVLPipeline:
        """Load a checkpoint directory or hub id, published or ours.

        Args:
            dtype: such as ``"bfloat16"``; the checkpoint's default, or what is stored, if None. The autoencoder
                keeps its own.
            device: the first GPU, or else the CPU, if None.
            device_map: how the model is spread, see :func:`unimedvl.infer.placement.place`.
            und_only: leave out everything that makes images, about half of the model.
            settings, transforms: in place of the checkpoint's own, or the published ones.
            changes: fields of :class:`unimedvl.config.ModelConfig` to replace.

        Raises:
            CheckpointError, ConfigError: see :func:`unimedvl.model.weights.load_model`.
        """
        directory = resolve_directory(path_or_id)
        defaults = defaults_of(directory)
        device, wanted = as_device(device), as_dtype(dtype or defaults.dtype)
        if und_only:
            changes["visual_gen"] = False
        loaded_on = device if device_map is None else torch.device("cpu")
        model = load_model(
            directory,
            weights=weights,
            dtype=wanted,
            device=loaded_on,
            attention=attention,
            **changes,
        )
        if device_map is not None:
            place(model, device_map, device)

        def autoencoder() -> Autoencoder:
            return load_autoencoder(directory, dtype=as_dtype(defaults.dtype), device=device, **changes)

        return cls(
            model,
            TextCodec.from_directory(directory),
            autoencoder,
            model_id=str(path_or_id),
            settings=settings or defaults.settings,
            transforms=transforms or defaults.transforms.fitted(model.config),
            truncate=truncate,
            progress=progress,
        )

    def understand(
        self,
        images: Sequence[AnyImage] | Sequence[Sequence[AnyImage]] = (),
        prompt: str | Sequence[str] = "",
        *,
        on_text: OnText | None = None,
        **options: Any,
    ) -> Any:
        """Answer a question about images.

        Args:
            images: those of the question; with a list of prompts, a list of images for each.
            prompt: the question, or a list of them, answered as one batch.
            on_text: called with (number of the question, text) as the answers grow.
            options: see :func:`unimedvl.infer.tasks.with_options`.

        Returns:
            str, or a list of str for a list of prompts.
        """
        settings = with_options(self.settings, **options)
        prompts, ragged = _as_batch(prompt, images)
        calls = [Call("vqa", _read_all(own), text, settings) for own, text in zip(ragged, prompts, strict=True)]
        answers = [result.text for result in self.perform(calls, on_text=on_text)]
        return answers[0] if isinstance(prompt, str) else answers

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        size: tuple[int, int] | None = None,
        seed: int | Sequence[int] = 0,
        latents: torch.Tensor | Sequence[torch.Tensor] | None = None,
        think: bool = False,
        **options: Any,
    ) -> Any:
        """Make an image from text.

        Args:
            prompt: a description, or a list of them, drawn as one batch.
            size: (width, height), multiples of 16.
            seed: of the noise; one for all, or one each.
            latents: noise to start from, float32 (C, h, w), one each.
            think: plan in words first.
            options: see :func:`unimedvl.infer.tasks.with_options`, ``steps`` and ``text_scale`` among them.

        Returns:
            RGB image, or a list of them for a list of prompts.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = [int(seed)] * len(prompts) if isinstance(seed, int | Integral) else [int(own) for own in seed]
        noise = [latents] if isinstance(latents, torch.Tensor) else latents
        for name, given in (("seeds", seeds), ("latents", noise or seeds)):
            if len(given) != len(prompts):
                raise DataError(f"{len(given)} {name} for {len(prompts)} prompts", where=name, remedy="give one each")
        requests = [
            Call("t2i", (), text, with_options(self.settings, size=size, seed=own, **options), think=think).request()
            for text, own in zip(prompts, seeds, strict=True)
        ]
        if noise is not None:
            requests = [replace(each, latent=own) for each, own in zip(requests, noise, strict=True)]
        images = [result.image for result in self.run(requests)]
        return images[0] if isinstance(prompt, str) else images

    def edit(
        self,
        images: Sequence[AnyImage] | Sequence[Sequence[AnyImage]],
        prompt: str | Sequence[str],
        *,
        mode: EditMode = "answer",
        **options: Any,
    ) -> Any:
        """Make an image from images and an instruction: super-resolution, staining, translation, segmentation.

        Args:
            images, prompt: as in :meth:`understand`.
            mode: see :class:`unimedvl.infer.tasks.Call`.
            options: see :func:`unimedvl.infer.tasks.with_options`.

        Returns:
            Result with text and image, or a list of them for a list of prompts.
        """
        return self._with_images("edit", images, prompt, options, mode=mode)

    def counterfactual(
        self, images: Sequence[AnyImage] | Sequence[Sequence[AnyImage]], prompt: str | Sequence[str], **options: Any
    ) -> Any:
        """The image as it would be under the prompt, and an explanation; arguments as in :meth:`edit`."""
        return self._with_images("counterfactual", images, prompt, options)

    def interleave(
        self,
        items: Sequence[AnyImage],
        *,
        answer: bool = False,
        size: tuple[int, int] | None = None,
        latents: torch.Tensor | None = None,
        **options: Any,
    ) -> Result:
        """Make an image from any sequence of texts and images; ``str`` items are texts.

        Args:
            answer: say something first, which joins the image's context.
            size: (width, height); that of the last image, resized, by default.
            latents: noise to start from, float32 (C, h, w).
            options: see :func:`unimedvl.infer.tasks.with_options`.
        """
        if not items:
            raise DataError("nothing to start from", where="interleave", remedy="give texts and images")
        settings = with_options(self.settings, **options)
        inputs = tuple(item if isinstance(item, str | ReadImage) else read_image(item) for item in items)
        seen = any(isinstance(item, ReadImage) for item in inputs)
        request = Request(
            inputs,
            ("text", "image") if answer else ("image",),
            "vae+vit",
            text=settings.text,
            image=settings.edit if seen else settings.t2i,
            size=size,
            latent=latents,
        )
        return self.run([request])[0]

    def reconstruct(self, images: Sequence[AnyImage]) -> list[Image.Image]:
        """Images through the autoencoder and back, each at the size at which it would be edited."""
        results = self.perform([Call("reconstruct", (image,)) for image in _read_all(images)])
        return [cast(Image.Image, result.image) for result in results]

    # --- what the rest stands on ----------------------------------------------------------------------------

    def perform(self, calls: Sequence[Call], *, on_text: OnText | None = None) -> list[Result]:
        """Carry out calls of any tasks as one batch.

        Raises:
            DataError, ConfigError, CheckpointError: see :meth:`unimedvl.infer.runner.Runner.run`.
        """
        results: dict[int, Result] = {}
        asked: dict[int, Request] = {}
        for number, call in enumerate(calls):
            if call.task == "reconstruct" and call.through == "autoencoder":
                results[number] = self._through_autoencoder(call)
            elif call.task == "edit" and call.mode == "understand":
                asked[number] = call.understanding()
        answers = dict(zip(asked, self.run(list(asked.values())), strict=True)) if asked else {}
        requests = {
            number: call.request(call.informed(answers[number].text or "") if number in answers else None)
            for number, call in enumerate(calls)
            if number not in results
        }
        if requests:
            numbers = list(requests)
            numbered = None if on_text is None else lambda number, piece: on_text(numbers[number], piece)
            results.update(zip(numbers, self.run(list(requests.values()), on_text=numbered), strict=True))
        for number, result in results.items():
            if number in answers:
                answer = answers[number]
                result.text, result.token_ids, result.finish = answer.text, answer.token_ids, answer.finish
                result.settings["text"] = answer.settings["text"]
            result.settings = {**calls[number].choices(), **result.settings}
            if calls[number].task == "report" and result.text is not None:
                result.text = with_notice(result.text)
        return [results[number] for number in range(len(calls))]

    def run(self, requests: Sequence[Request], *, on_text: OnText | None = None) -> list[Result]:
        """Carry out requests as one batch; see :class:`unimedvl.infer.requests.Request`."""
        if not requests:
            return []
        results = self.runner.run(requests, progress=self.progress, on_text=on_text)
        for request, result in zip(requests, results, strict=True):
            result.settings = {"model": self.model_id, "version": __version__, **request.settings()}
            if result.image is not None:
                result.settings["size"] = list(result.image.size)
        return results

    def _with_images(
        self, task: str, images: Any, prompt: str | Sequence[str], options: dict[str, Any], **more: Any
    ) -> Any:
        settings = with_options(self.settings, **options)
        prompts, ragged = _as_batch(prompt, images)
        calls = [Call(task, _read_all(own), text, settings, **more) for own, text in zip(ragged, prompts, strict=True)]
        results = self.perform(calls)
        return results[0] if isinstance(prompt, str) else results

    @torch.inference_mode()
    def _through_autoencoder(self, call: Call) -> Result:
        autoencoder = self.autoencoder()
        (image,) = call.images
        pixels, _ = self.processor.to_condition(image.image)
        decoded = autoencoder.decode(autoencoder.encode(pixels[None].to(self.engine.model.device)))[0]
        made = to_pillow(decoded, truncate=self.runner.truncate)
        inputs = [{"image": image.source, "steps": list(image.steps)}]
        settings = {"model": self.model_id, "version": __version__, "inputs": inputs}
        return Result(image=made, settings={**settings, "size": list(made.size)})


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Any]:
    """A tqdm bar on stderr, gone when done; nothing where stderr is no terminal."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, leave=False, disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        yield bar.update


def _read_all(images: Sequence[Any]) -> tuple[ReadImage, ...]:
    return tuple(image if isinstance(image, ReadImage) else read_image(image) for image in images)


def _as_batch(prompt: str | Sequence[str], images: Any) -> tuple[list[str], list[Sequence[Any]]]:
    """Prompts, and the images of each.

    Raises:
        DataError: a list of prompts does not come with as many lists of images.
    """
    if isinstance(images, AnyImage):
        images = [images]
    if isinstance(prompt, str):
        return [prompt], [images]
    prompts, ragged = list(prompt), list(images) or [()] * len(prompt)
    nested = all(isinstance(own, list | tuple) for own in ragged)
    if len(ragged) != len(prompts) or not nested:
        raise DataError(
            f"{len(prompts)} prompts and {len(ragged)} {'lists of images' if nested else 'single images'}",
            where="images",
            remedy="give one list of images per prompt",
        )
    return prompts, ragged
