from __future__ import annotations

import json

import pytest
from small_models import make_config, make_seanet_config

from codec.config import CodecConfig, ConfigError, ConvNeXtEncoderConfig, SEANetEncoderConfig


@pytest.mark.parametrize("config", [CodecConfig(), make_config(), make_seanet_config()])
def test_survives_json(config):
    assert CodecConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_parts_are_chosen_by_name_and_default_to_the_rest():
    config = CodecConfig.from_dict({"encoder": {"name": "seanet", "strides": [4, 5]}, "sample_rate": 24000})
    assert config.encoder == SEANetEncoderConfig(strides=(4, 5)) and config.sample_rate == 24000
    assert CodecConfig.from_dict({"encoder": ConvNeXtEncoderConfig(blocks=1)}).encoder.blocks == 1


@pytest.mark.parametrize("values, message", [
    ([], "must be a mapping"),
    ({"nam": "x"}, "has no setting nam; known are name"),
    ({1: 2, "x": 3}, "has no setting 1, x"),
    ({"encoder": {"name": "os.system"}}, "no encoder is named 'os.system'; there is convnext_stft, dac, fused, seanet"),
    ({"encoder": {"name": ["seanet"]}}, "no encoder is named"),
    ({"encoder": {}}, "no encoder is named 'None'"),
    ({"decoder": "seanet"}, "decoder must be a mapping"),
    ({"decoder": ConvNeXtEncoderConfig()}, "decoder must be a mapping"),
    ({"encoder": {"name": "seanet", "window": 640}}, "encoder has no setting window"),
    ({"sample_rate": "16000"}, "sample_rate must be int, not str"),
    ({"sample_rate": 16000.0}, "sample_rate must be int, not float"),
    ({"dim": True}, "dim must be int, not bool"),
    ({"sample_rate": 0}, "sample_rate is 0: it must lie in 1 to 768000"),
    ({"dim": 10**9}, "dim is 1e+09"),
    ({"dim": 10**400}, "dim is out of range"),
    ({"encoder": {"name": "convnext_stft", "window": 2**30}}, "encoder: window is"),
    ({"encoder": {"name": "convnext_stft", "blocks": 10**6}}, "encoder: blocks is"),
    ({"encoder": {"name": "seanet", "strides": [2] * 1000}}, "strides has 1000 entries"),
    ({"encoder": {"name": "seanet", "strides": [2, -4]}}, "strides is -4"),
    ({"encoder": {"name": "seanet", "strides": [2, [4]]}}, "strides must be int, not list"),
    ({"encoder": {"name": "seanet", "strides": 320}}, "strides must be a list"),
    ({"quantizer": {"name": "rvq", "num_codebooks": 10**6}}, "num_codebooks is 1e+06"),
    ({"quantizer": {"name": "rvq", "decay": float("nan")}}, "decay is out of range"),
    ({"quantizer": {"name": "rvq", "decay": 1.5}}, "decay is 1.5"),
    ({"name": ""}, "name must be 1 to 200 printable"),
    ({"name": "a\nb"}, "name must be 1 to 200 printable"),
    ({"name": "a" * 201}, "name must be 1 to 200 printable"),
])
def test_what_a_stranger_may_have_written_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError) as caught:
        CodecConfig.from_dict(values)
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"dim": NaN}', '{"dim": 1e999}', "\x00", "[]", '"x"', " " * 2_000_000])
def test_files_that_are_no_configuration_are_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        CodecConfig.from_json(path)


def test_missing_and_undecodable_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a readable"):
        CodecConfig.from_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a readable"):
        CodecConfig.from_json(tmp_path / "config.json")
