"""Data sets and their augmentation."""

from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from mlml.config.declared import Declared, Fraction, Probability

AugmentForm = Literal["exact", "fused"]
"""Whether SimCLR's augmentation is one operation after the other, or a few that do nearly the same at once."""


class DataEntry(Declared):
    """Keys of every entry of `data`; the others are those of the source's own `Config`.

    Attributes:
        source: a file of mlml/data/sources.
        validation_fraction: of all images; of those outside the test split where the source has its own.
        test_fraction: of all images. Not to be given where the source has its own test split; else 0.2.
    """

    source: str
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction | None = None

    @model_validator(mode="after")
    def _some_train(self) -> "DataEntry":
        taken = self.validation_fraction + (self.test_fraction or 0.0)
        if taken >= 1:
            raise ValueError(f"validation_fraction and test_fraction must sum to less than 1; got {taken}")
        return self


class AugmentConfig(Declared):
    """SimCLR's augmentation (Chen et al. 2020, arXiv:2002.05709, appendix A); the defaults are the paper's.

    They are for ImageNet; at 32x32, appendix B.9 halves the four strengths and leaves the blur out (`blur_prob: 0`).
    Solarisation, which SimCLR has not, is BYOL's (Grill et al. 2020, arXiv:2006.07733, appendix B).

    Attributes:
        crop_scale: range of the crop's area, as a fraction of the image's.
        crop_ratio: range of the crop's width / height, before it is resized to the image's size.
        brightness: strength s; the factor is uniform in [max(0, 1 - s), 1 + s]. So are contrast and saturation.
        hue: strength in turns of the colour wheel; the turn is uniform in [-hue, hue].
        blur_kernel: width in pixels, odd; a tenth of the image's height if null.
        blur_sigma: range of the blur's standard deviation in pixels.
        solarise_threshold: values from here on, in [0, 1], are inverted.
        form: `exact` equals torchvision operation by operation. `fused` makes views of the same draws in less time: it
            clamps colours once, at the end, and turns hue on a circle where `exact` turns it on a hexagon.
    """

    laid_over_defaults: ClassVar[bool] = True
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.08, 1.0)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    flip_prob: Probability = 0.5
    jitter_prob: Probability = 0.8
    brightness: NonNegativeFloat = 0.8
    contrast: NonNegativeFloat = 0.8
    saturation: NonNegativeFloat = 0.8
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    grey_prob: Probability = 0.2
    blur_prob: Probability = 0.5
    blur_kernel: PositiveInt | None = None
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    solarise_prob: Probability = 0.0
    solarise_threshold: Probability = 0.5
    form: AugmentForm = "exact"

    @field_validator("crop_scale", "crop_ratio", "blur_sigma")
    @classmethod
    def _increasing(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] > bounds[1]:
            raise ValueError(f"must be [low, high] with low <= high; got {list(bounds)}")
        return bounds

    @field_validator("blur_kernel")
    @classmethod
    def _odd(cls, kernel: int | None) -> int | None:
        if kernel is not None and kernel % 2 == 0:
            raise ValueError(f"must be odd; got {kernel}")
        return kernel


class MultiCropConfig(Declared):
    """Two global crops and several smaller local ones: Caron et al. 2020, arXiv:2006.09882, section 3.2.

    The defaults are those of DINO (Caron et al. 2021, arXiv:2104.14294, section 3.2 and the authors' code), where
    global crops are 224 pixels wide and local ones 96. Which part of the image a crop takes is the `crop_scale` of its
    augmentation.

    Attributes:
        num_local: local crops of each image, beside the two global ones.
        local_size: side of a local crop, as a share of the image's; the network may ask for a size near to it.
        first: augmentation of the first global crop, which is as large as the image.
        second: of the second.
        local: of the local crops.
    """

    laid_over_defaults: ClassVar[bool] = True
    num_local: NonNegativeInt = 8
    local_size: Annotated[float, Field(gt=0, le=1)] = 96 / 224
    first: AugmentConfig = AugmentConfig(
        crop_scale=(0.4, 1.0), brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_prob=1.0
    )
    second: AugmentConfig = AugmentConfig(
        crop_scale=(0.4, 1.0), brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_prob=0.1, solarise_prob=0.2
    )
    local: AugmentConfig = AugmentConfig(
        crop_scale=(0.05, 0.4), brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_prob=0.5
    )


class ShiftFlipConfig(Declared):
    """Pad, crop at random, mirror at random: He et al. 2016, arXiv:1512.03385, section 4.2.

    Attributes:
        padding: pixels; the image moves by up to as many in each direction, and 0 comes in at the edge.
        flip_prob: 0 for images with text or digits.
    """

    laid_over_defaults: ClassVar[bool] = True
    padding: NonNegativeInt = 4
    flip_prob: Probability = 0.5
