"""What stands beside the weights: the feature extractor, code that loads without an import, a model card; and the hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from codec.atomic import Output
from codec.hub import PRETRAINED
from codec.lm.auto.config import CODE, NeuralCodecFeatureExtractor
from codec.model import Codec

CARD = "README.md"
HUB = ("commit_message", "private", "token", "revision", "create_pr")
SHIM = '''"""Read by transformers with trust_remote_code=True; needs: pip install neural-codec-toolkit[lm]"""
from codec.lm.auto import NeuralCodecConfig, NeuralCodecFeatureExtractor, NeuralCodecModel  # noqa: F401
'''


class Files:
    """The part of a PreTrainedModel that writes; `codec` is the model's."""

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """config.json and model.safetensors as `transformers` writes them, with the feature extractor, a model card where there
        is none, and two lines of code for those who load with trust_remote_code=True."""
        directory, hub = Path(save_directory), {key: kwargs.pop(key) for key in (*HUB, "repo_id") if key in kwargs}
        directory.mkdir(parents=True, exist_ok=True)
        super().save_pretrained(directory, token=hub.get("token"), **kwargs)
        NeuralCodecFeatureExtractor(sampling_rate=self.config.sampling_rate).save_pretrained(directory)
        _write(directory / CODE, SHIM)
        if not (directory / CARD).exists():
            _write(directory / CARD, card(self.codec))
        if push_to_hub:
            self.push_to_hub(**{"repo_id": directory.name, **hub})

    def push_to_hub(
        self, repo_id: str, *, commit_message: str = "Upload model", private: bool | None = None, token: str | bool | None = None,
        revision: str | None = None, create_pr: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes, and return where it is. A model card that is there already is kept."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory)
            if api.file_exists(repo_id, CARD, revision=revision):
                (Path(directory) / CARD).unlink()
            return str(api.upload_folder(
                repo_id=repo_id, folder_path=directory, commit_message=commit_message, revision=revision, create_pr=create_pr))


def card(codec: Codec) -> str:
    """A model card in Markdown: what the model is and how it is used, and the card that it has in the box."""
    own = PRETRAINED / codec.config.name / "MODEL_CARD.md"
    known = own.read_text(encoding="utf-8").split("\n", 1) if own.is_file() else [f"# {codec.config.name}", ""]
    return f"""---
library_name: transformers
pipeline_tag: feature-extraction
tags: [audio, codec, neural_codec]
---

{known[0]}

Audio at {codec.sample_rate} Hz to {codec.num_codebooks} codebooks of {codec.codebook_size} at {codec.frame_rate:g} frames a second
({codec.bitrate() / 1000:g} kbit/s) and back. `pip install "neural-codec-toolkit[lm]"`, then

```python
import codec.lm.auto
from transformers import AutoFeatureExtractor, AutoModel

model, extractor = AutoModel.from_pretrained(name), AutoFeatureExtractor.from_pretrained(name)
inputs = extractor(raw_audio=wav, sampling_rate={codec.sample_rate}, return_tensors="pt")
codes = model.encode(**inputs).audio_codes                          # (batch, {codec.num_codebooks}, frames)
audio = model.decode(codes, inputs["padding_mask"]).audio_values    # (batch, 1, samples)
```
{known[-1]}"""


def _write(path: Path, text: str) -> None:
    file = Output(path)
    try:
        file.write(text.encode())
        file.commit()
    finally:
        file.discard()
