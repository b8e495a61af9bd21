"""Settings and weights of a published model, taken one by one, so that nothing is forgotten or left over."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from codec.config import CodecConfig, ConfigError
from codec.model import Codec

SHOWN = 20  # names of a kind in an error message


class Settings:
    """A config.json of another project; its defaults are given where a value is asked for."""

    def __init__(self, family: str, values: dict[str, Any]):
        self.family, self._values = family, values

    def __call__(self, key: str, default: Any) -> Any:
        """The value of `key`, of the type of the default (an integer passes as a float). null means the default."""
        value = self._values.get(key)
        value = default if value is None else value
        expected = type(default)
        if expected is float and type(value) is int:
            value = float(value)
        if expected is not type(None) and type(value) is not expected:
            raise ConfigError(f"{self.family}: {key} must be {expected.__name__}, not {type(value).__name__}")
        if expected is float and not math.isfinite(value):
            raise ConfigError(f"{self.family}: {key} is not finite")
        return value

    def whole(self, key: str, default: int) -> int:
        """A whole number of at least 1."""
        value = self(key, default)
        if not 1 <= value < 2**31:
            raise ConfigError(f"{self.family}: {key} is {value}: it must be a positive whole number")
        return value

    def wholes(self, key: str, default: Sequence[int]) -> tuple[int, ...]:
        values = self(key, list(default))
        if not values or len(values) > 256 or not all(type(one) is int and 1 <= one < 2**31 for one in values):
            raise ConfigError(f"{self.family}: {key} must be a list of positive whole numbers")
        return tuple(values)

    def require(self, key: str, wanted: Any, why: str) -> None:
        """Refuse any other value than `wanted`, which also is the default."""
        value = self._values.get(key)
        if value is not None and value != wanted:
            raise ConfigError(f"{self.family}: {key}={value!r} cannot be converted: {why}")


class Source:
    """Tensors of a published model that find their place in a codec of `config`.

    `take` says where each goes; `codec` puts it together, or raises ConfigError with the names of all that are missing,
    left over, of another shape or no numbers.
    """

    def __init__(self, tensors: dict[str, Tensor]):
        self._left = dict(tensors)
        self._state: dict[str, Tensor] = {}
        self._names: dict[str, str] = {}
        self._missing: list[str] = []
        self._wrong: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, own: str, name: str, change: Callable[[Tensor], Tensor] | None = None) -> None:
        """The tensor `name`, changed where need be, is our `own`."""
        value = self.pop(name)
        if value is not None:
            self.put(own, name, value if change is None else self._changed(name, value, change))

    def take_normed(self, own: str, prefix: str, change: Callable[[Tensor], Tensor] | None = None) -> None:
        """The weight under `prefix`, where torch keeps it as a length and a direction in one of two ways (weight
        normalisation, Salimans and Kingma 2016, https://arxiv.org/abs/1602.07868), or as itself."""
        for length, direction in (("parametrizations.weight.original0", "parametrizations.weight.original1"),
                                  ("weight_g", "weight_v")):
            if f"{prefix}.{length}" in self or f"{prefix}.{direction}" in self:
                lengths, directions = self.pop(f"{prefix}.{length}"), self.pop(f"{prefix}.{direction}")
                if lengths is None or directions is None:
                    return
                if lengths.shape != directions.shape[:1] + (1,) * (directions.dim() - 1):
                    self._wrong.append(f"{prefix}.{length} is {tuple(lengths.shape)} for {prefix}.{direction} of "
                                       f"{tuple(directions.shape)}")
                    return
                name, weight = f"{prefix}.{direction}", torch._weight_norm(directions, lengths, 0)
                self.put(own, name, weight if change is None else self._changed(name, weight, change))
                return
        self.take(own, f"{prefix}.weight", change)

    def pop(self, name: str) -> Tensor | None:
        """A tensor in float32, or None where there is none (which is noted)."""
        value = self._left.pop(name, None)
        if value is None:
            self._missing.append(name)
        elif not value.dtype.is_floating_point:
            self._wrong.append(f"{name} is {value.dtype}")
            return None
        elif not value.isfinite().all():
            self._wrong.append(f"{name} holds NaN or infinite values")
            return None
        return None if value is None else value.float()

    def put(self, own: str, name: str, value: Tensor) -> None:
        """Our `own`, made of the tensor(s) that `name` says."""
        self._state[own], self._names[own] = value, name

    def stack(
        self, own: str, names: list[str], values: list[Tensor | None], join: Callable[[list[Tensor]], Tensor] = torch.stack
    ) -> None:
        """Our `own`, made of tensors that are all of one shape; what is None was missing."""
        shapes = {name: tuple(value.shape) for name, value in zip(names, values) if value is not None}
        found = Counter(shapes.values()).most_common()
        if len(found) > 1:
            most, times = found[0]
            odd = [name for name, shape in shapes.items() if shape != most or 2 * times <= len(shapes)]
            self._wrong += [f"{name} is {shapes[name]}, unlike others beside it" for name in odd]
        elif () in shapes.values():
            self._wrong += [f"{name} is ()" for name in names]
        elif len(shapes) == len(values):
            self.put(own, f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0], join(values))

    def refuse(self, problem: str) -> None:
        """Say more about why the tensors do not fit."""
        self._wrong.append(problem)

    def drop(self, name: str) -> None:
        """A tensor that only their training needs, there or not."""
        self._left.pop(name, None)

    def _changed(self, name: str, value: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        try:
            return change(value)
        except (RuntimeError, IndexError):  # of another shape than `change` expects
            self._wrong.append(f"{name} is {tuple(value.shape)}")
            return value

    def codec(self, config: CodecConfig) -> Codec:
        """The codec, in evaluation mode and without gradients. Nothing large is made before everything fits."""
        try:
            with torch.device("meta"):
                expected = {name: value for name, value in Codec(config).state_dict().items()
                            if not name.startswith("quantizer.trainer")}
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"no model of these settings can be built: {error}") from None
        wrong = self._wrong + [
            f"{self._names[own]} is {tuple(value.shape)} instead of {tuple(expected[own].shape)}"
            for own, value in self._state.items() if own in expected and value.shape != expected[own].shape
        ]
        problems = [_listed("missing", self._missing), _listed("unexpected", sorted(self._left)), _listed("wrong:", wrong)]
        if any(problems):
            raise ConfigError(f"the tensors do not fit config.json: {'; '.join(filter(None, problems))}")
        with torch.random.fork_rng(devices=[]):  # drawing initial weights must not change the caller's random numbers
            model = Codec(config)
        trainers = {name: value for name, value in model.state_dict().items() if name.startswith("quantizer.trainer")}
        model.load_state_dict(trainers | self._state)
        return model.eval().requires_grad_(False)


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{kind} {', '.join(names[:SHOWN])}{more}" if names else ""
