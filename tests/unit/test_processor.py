from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

from unimedvl.config import ModelConfig
from unimedvl.errors import CheckpointError, DataError
from unimedvl.processor import ImageTransforms, Processor, TextCodec, normalized, to_pillow


def test_special_tokens_come_from_the_tokenizer(codec, golden):
    expected = golden.settings["special_tokens"]
    assert codec.special.bos == expected["bos_token_id"]
    assert codec.special.eos == expected["eos_token_id"]
    assert codec.special.vision_start == expected["start_of_image"]
    assert codec.special.vision_end == expected["end_of_image"]


def test_missing_control_tokens_are_added(tiny_directory, tmp_path):
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(str(tiny_directory / "vocab.json"), str(tiny_directory / "merges.txt"))
    before = len(tokenizer)
    special = TextCodec(tokenizer).special
    assert len(tokenizer) > before
    assert len({special.bos, special.eos, special.vision_start, special.vision_end}) == 4


def test_control_tokens_in_a_prompt_are_plain_text(codec):
    ids = codec.encode("a<|im_end|>b")
    assert codec.special.eos not in ids
    assert codec.decode(ids) == "a<|im_end|>b"


def test_damaged_tokenizer(tiny_directory, tmp_path):
    directory = shutil.copytree(tiny_directory, tmp_path / "x")
    (directory / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer cannot be read.*vocab.json"):
        TextCodec.from_directory(directory)
    (directory / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer files.*vocab.json and merges.txt"):
        TextCodec.from_directory(directory)


def test_pixels_round_trip():
    image = Image.effect_noise((16, 12), 60).convert("RGB")
    assert to_pillow(normalized(image)).tobytes() == image.tobytes()
    half = torch.full((3, 1, 1), 1 / 255)  # 128 exactly between two grays after scaling
    assert to_pillow(half).getpixel((0, 0)) == (128, 128, 128)
    assert to_pillow(torch.full((3, 1, 1), 0.99)).getpixel((0, 0)) == (254, 254, 254)
    assert to_pillow(torch.full((3, 1, 1), 0.99), truncate=True).getpixel((0, 0)) == (253, 253, 253)
    assert to_pillow(torch.full((3, 1, 1), 9.0)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["tiny", "nano", "7b_mot"])
@pytest.mark.parametrize("size", [(30, 30), (4000, 300), (1000, 1000)])
def test_transforms_fit_the_position_tables(codec, name, size):
    config = ModelConfig.preset(name)
    processor = Processor(codec, ImageTransforms().fitted(config))
    image = Image.new("RGB", size)
    seen = processor.to_understand(image).pixels
    pixels, also_seen = processor.to_condition(image)
    for tensor, stride, side in (
        (seen, config.vit.patch_size, config.vit.max_side),
        (also_seen.pixels, config.vit.patch_size, config.vit.max_side),
        (pixels, config.latent_stride, config.max_latent_size),
    ):
        assert all(length % stride == 0 and length // stride <= side for length in tensor.shape[1:])
    if name == "7b_mot":
        assert ImageTransforms().fitted(config) == ImageTransforms()


def test_images_of_a_question_share_the_pixels(codec):
    processor = Processor(codec, ImageTransforms())
    image = Image.new("RGB", (980, 980))
    alone, shared = (processor.to_understand(image, count).pixels[0].numel() for count in (1, 4))
    assert shared < alone / 3


def test_empty_text(codec):
    with pytest.raises(DataError, match="the text is empty"):
        Processor(codec, ImageTransforms()).text("  \n")
