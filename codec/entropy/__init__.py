"""Entropy coding of codes in .tok files by a prior of the model: the same in fewer bytes. See docs/tok-format.md."""

from codec.entropy.payload import pack, unpack  # noqa: F401
from codec.entropy.prior import FILE, FILES, Prior, prior_of, priors_in, priors_in_the_box  # noqa: F401
