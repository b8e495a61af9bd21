"""The weights of an encoder's own teacher (X-Codec, X-Codec 2), from the model that its authors published."""

from __future__ import annotations

from torch import nn

from codec.config import ConfigError
from codec.nn.teacher import FilterbankTeacher, Teacher

RANDOM = "random"
# Settings of `transformers` that must agree, and what `model.encoder` calls them.
SPEECH = {
    "hidden_size": "teacher_dim", "num_hidden_layers": "teacher_layers", "num_attention_heads": "teacher_heads",
    "intermediate_size": "teacher_hidden", "conv_dim": "teacher_conv_channels", "conv_kernel": "teacher_conv_kernels",
    "conv_stride": "teacher_conv_strides", "conv_bias": "teacher_conv_bias", "feat_extract_norm": "teacher_norm",
    "do_stable_layer_norm": "teacher_stable", "num_conv_pos_embeddings": "teacher_position_kernel",
    "num_conv_pos_embedding_groups": "teacher_position_groups",
}
FILTERBANK = {
    "hidden_size": "teacher_dim", "num_attention_heads": "teacher_heads", "intermediate_size": "teacher_hidden",
    "conv_depthwise_kernel_size": "teacher_kernel_size", "left_max_position_embeddings": "teacher_left",
    "right_max_position_embeddings": "teacher_right",
}


def give_teacher(encoder: nn.Module, name: str, init: str) -> None:
    """Fill the teacher of an encoder, if it has one.

    Args:
        encoder: of the codec.
        name: `semantic.teacher` of a recipe: a folder or hub id of `transformers`, "random", or empty.
        init: the model that the codec started from, which brings a teacher; or empty.

    Of w2v-BERT 2.0 the first layers are taken. Raises ConfigError where weights are missing, given twice or to an encoder
    without a teacher, or do not fit.
    """
    teacher = getattr(encoder, "teacher", None)
    if not isinstance(teacher, Teacher):
        if name:
            raise ConfigError(f"semantic.teacher={name}: this encoder hears through no teacher: leave it out")
        return
    kind = teacher.model.config.model_type
    if bool(name) == bool(init):
        given = "init brings one already: leave semantic.teacher out" if name else (
            f"add semantic.teacher=NAME, a folder or hub id of a {kind}; or init=MODEL, which brings one")
        raise ConfigError(f"this encoder hears through a frozen {kind}: {given}")
    if name and name != RANDOM:
        _fill(teacher, name, kind)


def _fill(teacher: Teacher, name: str, kind: str) -> None:
    from transformers import AutoModel

    from codec.semantic.teachers import TeacherError
    from codec.semantic.transformers_teachers import check_weights, find, from_pretrained

    try:
        folder = find(name)
        check_weights(name, folder)
        given = from_pretrained(AutoModel, folder)
    except TeacherError as error:
        raise ConfigError(f"semantic.teacher: {error}") from None
    own, theirs = teacher.model.config, given.config
    if theirs.model_type != kind:
        raise ConfigError(f"semantic.teacher={name} is a {theirs.model_type}, and this encoder hears through a {kind}")
    for setting, ours in (FILTERBANK if isinstance(teacher, FilterbankTeacher) else SPEECH).items():
        wanted, found = (_plain(getattr(config, setting)) for config in (own, theirs))
        if wanted != found:
            raise ConfigError(f"semantic.teacher={name} has {setting}={found}, and model.encoder.{ours} is {wanted}: make them "
                              "equal, or leave semantic.teacher out of a --tiny trial")
    position = getattr(given.encoder, "pos_conv_embed", None)
    if position is not None:
        nn.utils.parametrize.remove_parametrizations(position.conv, "weight")
    state = given.state_dict()
    missing = sorted(key for key, value in teacher.model.state_dict().items() if key not in state or state[key].shape != value.shape)
    if missing:
        raise ConfigError(f"semantic.teacher={name} lacks weights that this encoder needs, or has others: {', '.join(missing[:5])}")
    teacher.model.load_state_dict(state, strict=False)  # what else it has is not used


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
