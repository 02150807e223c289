"""What a mapping under a field with a default of its own means."""

import pytest
from pydantic import ValidationError

from mlml.config import AugmentConfig, Declared, MultiCropConfig, OptimizerConfig, SGDConfig, TrainConfig


class Own(Declared):
    """A method whose augmentation and optimizer differ from the usual."""

    augment: AugmentConfig = AugmentConfig(brightness=0.4, blur_prob=1.0)
    crops: MultiCropConfig = MultiCropConfig(num_local=2, local=AugmentConfig(hue=0.3))
    optimizer: OptimizerConfig = SGDConfig(momentum=0.5)


def test_what_is_not_named_is_as_the_method_has_it():
    config = Own.model_validate({"augment": {"blur_prob": 0.25}})
    assert config.augment == AugmentConfig(brightness=0.4, blur_prob=0.25)
    assert config.crops == Own().crops


def test_defaults_within_defaults_too():
    crops = Own.model_validate({"crops": {"local": {"flip_prob": 0.0}, "first": {"hue": 0.4}}}).crops
    assert crops.num_local == 2
    assert crops.local == AugmentConfig(hue=0.3, flip_prob=0.0)
    first = MultiCropConfig().first
    assert crops.first == first.model_copy(update={"hue": 0.4})


def test_a_whole_config_is_taken_as_it_is():
    whole = AugmentConfig(flip_prob=0.0)
    assert Own.model_validate({"augment": whole}).augment == whole
    config = Own(augment=whole)
    assert Own.model_validate(config.model_dump()) == config


def test_other_configs_keep_the_defaults_of_their_class():
    """A training of 20 epochs by default may be declared in steps instead."""

    class Probe(Declared):
        train: TrainConfig = TrainConfig(epochs=20, batch_size=64)

    assert Probe.model_validate({"train": {"steps": 5}}).train == TrainConfig(steps=5)


def test_a_choice_between_configs_is_not_mixed():
    assert Own.model_validate({"optimizer": {"name": "adam"}}).optimizer.name == "adam"
    assert Own.model_validate({"optimizer": {"name": "sgd"}}).optimizer == SGDConfig()


@pytest.mark.parametrize("given", [{"augment": {"blur": 1}}, {"augment": 3}, {"crops": {"local": {"flip_prob": 2}}}, 3])
def test_faults_are_found_as_ever(given):
    with pytest.raises(ValidationError):
        Own.model_validate(given)
