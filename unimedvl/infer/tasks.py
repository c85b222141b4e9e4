"""What each task shows to the model and asks of it. The wordings are settings, not code."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from unimedvl import NOTICE
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import ReadImage
from unimedvl.infer.decoding import TextOptions
from unimedvl.infer.requests import Output, Request
from unimedvl.infer.sampling import PRESETS, Guidance, ImageOptions
from unimedvl.settings import convert

Turn = tuple[str, str]
"""A question that was asked before, and its answer."""

EditMode = Literal["answer", "direct", "understand"]
EDIT_MODES: tuple[EditMode, ...] = get_args(EditMode)
SUBTASKS = ("super-resolution", "staining", "translation", "segmentation")
TASKS = ("vqa", "report", "caption", "t2i", "edit", "counterfactual", "reconstruct")


@dataclass(frozen=True)
class Prompts:
    """Wordings that the user did not give."""

    report: str = (
        "Write a radiology report of this image with the sections Findings and Impression. "
        "Describe what is visible, and say what cannot be judged from it."
    )
    caption: str = "Describe this medical image in one sentence, naming the modality and the body part."
    think: str = (
        "Before you draw, plan the image: its modality, the anatomy with its positions, and how each finding looks. "
        "Write the plan between <think> and </think>."
    )
    reconstruct: str = "Reconstruct this image."
    super_resolution: str = "Increase the resolution of this image four times and restore its fine detail."
    staining: str = "Turn this H&E stained image into an immunohistochemistry stained image of the same tissue."
    translation: str = "Translate this image into the other modality, keeping the anatomy."
    segmentation: str = "Segment the structure of interest in this image."
    counterfactual: str = "Show how this image would look if the finding were absent, and explain what changes."
    # Between an instruction and the answer that the model gave to it, before it edits.
    joint: str = "\n\n"


@dataclass(frozen=True)
class InferSettings:
    """Everything about inference that may be overridden.

    Attributes:
        t2i: how images are sampled from text alone; ``edit``: from images.
        size: (width, height) of what is made; by default the input image's, or 512 x 512 without one.
    """

    text: TextOptions = field(default_factory=TextOptions)
    t2i: ImageOptions = field(default_factory=ImageOptions)
    edit: ImageOptions = field(default_factory=lambda: ImageOptions(guidance=PRESETS["edit"]))
    prompts: Prompts = field(default_factory=Prompts)
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Call:
    """One use of a task, as a person asks for it.

    Attributes:
        task: one of ``TASKS``. ``subtask``: of ``edit``, one of ``SUBTASKS``; chooses the default prompt.
        prompt: the task's own wording is used if None.
        history: earlier questions and answers (vqa).
        think: plan the image in words first (t2i).
        mode: of ``edit``: say the answer first and draw with it in the context (``answer``), draw at once
            (``direct``), or the published "understand, then edit" (``understand``): answer the instruction from
            the image alone, then edit with instruction and answer.
        through: of ``reconstruct``: the autoencoder, or the whole model.
    """

    task: str
    images: tuple[ReadImage, ...] = ()
    prompt: str | None = None
    settings: InferSettings = field(default_factory=InferSettings)
    subtask: str | None = None
    history: tuple[Turn, ...] = ()
    think: bool = False
    mode: EditMode = "answer"
    through: Literal["autoencoder", "model"] = "autoencoder"

    def __post_init__(self) -> None:
        choices = (
            ("task", self.task, TASKS),
            ("subtask", self.subtask, (None, *SUBTASKS)),
            ("mode", self.mode, EDIT_MODES),
            ("through", self.through, ("autoencoder", "model")),
        )
        for name, value, allowed in choices:
            if value not in allowed:
                names = ", ".join(str(each) for each in allowed if each)
                raise ConfigError(f"no {name} is called {value!r}", where=name, remedy=f"use one of {names}")
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise DataError(f"the prompt is a {type(self.prompt).__name__}", where="prompt", remedy="give a string")
        if any(not isinstance(text, str) for turn in self.history for text in turn):
            raise DataError("a turn holds something else than text", where="history", remedy="give [question, answer]")
        if self.task == "reconstruct" and len(self.images) > 1:
            raise DataError(f"{len(self.images)} images to reconstruct", where="image", remedy="give one a call")
        if not self.images and self.task in ("report", "caption", "edit", "counterfactual", "reconstruct"):
            raise DataError(f"{self.task} needs an image", where="image", remedy="give one")

    def choices(self) -> dict[str, Any]:
        """What was chosen beside prompt and options, for the record."""
        relevant = {"t2i": ("think",), "edit": ("subtask", "mode"), "reconstruct": ("through",)}.get(self.task, ())
        return {"task": self.task, **{name: getattr(self, name) for name in relevant}}

    @property
    def wording(self) -> str:
        """The prompt, or the task's own.

        Raises:
            DataError: there is neither.
        """
        if self.prompt is not None:
            return self.prompt
        wording = getattr(self.settings.prompts, (self.subtask or self.task).replace("-", "_"), None)
        if wording is None:
            raise DataError(f"{self.task} needs a prompt", where="prompt", remedy="say what you want")
        return wording

    def request(self, prompt: str | None = None) -> Request:
        """What the model is asked, with ``prompt`` in place of the call's own wording."""
        prompt = self.wording if prompt is None else prompt
        settings, images = self.settings, self.images
        if self.task == "t2i":
            return Request(
                (*images, prompt),
                ("text", "image") if self.think else ("image",),
                "vae+vit",
                system=settings.prompts.think if self.think else None,
                text=settings.text,
                image=settings.edit if images else settings.t2i,
                size=settings.size,
            )
        if self.task in ("edit", "reconstruct", "counterfactual"):
            outputs: dict[str, tuple[Output, ...]] = {
                "edit": ("text", "image") if self.mode == "answer" else ("image",),
                "reconstruct": ("image",),
                "counterfactual": ("image", "text"),
            }
            return Request(
                (*images, prompt),
                outputs[self.task],
                "vae+vit",
                text=settings.text,
                image=settings.edit,
                size=settings.size,
            )
        turns = [text for turn in self.history for text in turn]
        return Request((*images, *turns, prompt), ("text",), text=settings.text)

    def understanding(self) -> Request:
        """The question of "understand, then edit": the instruction, with the images only to be read."""
        return Request((*self.images, self.wording), ("text",), text=self.settings.text)

    def informed(self, answer: str) -> str:
        """The instruction together with the model's own answer to it."""
        return f"{self.wording}{self.settings.prompts.joint}{answer}" if answer.strip() else self.wording


def with_notice(report: str) -> str:
    """A report with the line that it is no diagnosis."""
    return f"{report.rstrip()}\n\n{NOTICE}"


def with_options(settings: InferSettings, preset: str | None = None, **options: Any) -> InferSettings:
    """The settings with some options replaced, by their own names; None leaves an option as it is.

    Args:
        preset: guidance of ``t2i``, ``edit`` or ``none``, for images from text and from images alike.
        options: fields of :class:`TextOptions`, :class:`ImageOptions` (both for ``seed``) and :class:`Guidance`,
            and ``size``.

    Raises:
        ConfigError: no option or preset has that name, or a value cannot work.
    """
    options = {name: value for name, value in options.items() if value is not None}
    names = {kind: {item.name for item in fields(kind)} for kind in (TextOptions, ImageOptions, Guidance)}
    known = {"size"}.union(*names.values()) - {"guidance"}
    if unknown := sorted(options.keys() - known):
        raise ConfigError(
            f"no option is called {unknown[0]!r}", where="options", remedy=f"known: {', '.join(sorted(known))}"
        )
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"no preset is called {preset!r}", where="preset", remedy=f"use one of {', '.join(PRESETS)}")

    def chosen(kind: type) -> dict[str, Any]:
        hints = get_type_hints(kind)
        own = {name: [value] if name == "stop" and isinstance(value, str) else value for name, value in options.items()}
        return {name: convert(hints[name], value, name) for name, value in own.items() if name in names[kind]}

    def image(own: ImageOptions) -> ImageOptions:
        guidance = PRESETS[preset] if preset is not None else own.guidance
        return replace(own, guidance=replace(guidance, **chosen(Guidance)), **chosen(ImageOptions))

    return replace(
        settings,
        text=replace(settings.text, **chosen(TextOptions)),
        t2i=image(settings.t2i),
        edit=image(settings.edit),
        size=convert(tuple[int, int], options["size"], "size") if "size" in options else settings.size,
    )
