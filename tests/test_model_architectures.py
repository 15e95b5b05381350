"""The networks, and what stands before and behind them in training."""

import itertools
import random
from typing import Any

import numpy as np
import pytest

from mammo_model.settings import SEED_STEPS, ArchitectureName, TrainingSettings

SMALL = TrainingSettings(architecture="vgg1", width=2)


def kinds(model: Any) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def test_the_networks_size() -> None:
    from mammo_model.architectures import build_network, dropout_rates

    assert build_network(256, TrainingSettings()).count_params() == 1_242_341
    assert build_network(256, TrainingSettings(architecture="resnet")).count_params() == pytest.approx(
        1_242_341, rel=0.1
    )
    assert dropout_rates(4, 0.5) == pytest.approx([0.2, 0.3, 0.4, 0.5])
    binary = build_network(32, TrainingSettings(binary=True, width=2))
    assert binary.output_shape == (None, 2)
    assert binary.inputs[0].dtype == "uint8"


@pytest.mark.parametrize(
    ("name", "pools", "dropouts", "normalised", "regularised"),
    [
        ("vgg1", 1, 0, False, False),
        ("vgg2", 2, 0, False, False),
        ("vgg3", 3, 0, False, False),
        ("vgg3-dropout", 3, 4, False, False),
        ("vgg3-dropout-bn", 3, 4, True, False),
        ("vgg3-dropout-bn-l2", 3, 4, True, True),
        ("vgg4-dropout-bn", 4, 5, True, False),
        ("resnet", 4, 5, True, False),
    ],
)
def test_each_architecture_is_what_its_name_says(
    name: ArchitectureName, pools: int, dropouts: int, normalised: bool, regularised: bool
) -> None:
    from mammo_model.architectures import ARCHITECTURES, build_network

    model = build_network(32, TrainingSettings(architecture=name, width=2))
    layers = kinds(model)
    assert layers.count("MaxPooling2D") == pools
    assert layers.count("Dropout") == dropouts
    assert ("BatchNormalization" in layers) == normalised
    assert bool(model.losses) == regularised
    assert layers.count("Add") == (4 if name == "resnet" else 0)
    assert layers.count("Conv2D") == pools * (3 if name == "resnet" else 2)
    assert (name in SEED_STEPS) == (name != "resnet")
    assert len(ARCHITECTURES) == len(SEED_STEPS) + 1 == 8
    with pytest.raises(ValueError, match="cannot be halved"):
        build_network(2**pools - 1, TrainingSettings(architecture=name, width=2))


def test_white_is_one_whatever_the_bits() -> None:
    from mammo_model.architectures import build_network

    for dtype in (np.uint8, np.uint16):
        network = build_network(16, SMALL, dtype)
        assert network.inputs[0].dtype == np.dtype(dtype).name
        assert network.get_layer("scale").scale == pytest.approx(1 / np.iinfo(dtype).max)
        white = np.full((1, 16, 16, 1), np.iinfo(dtype).max, dtype)
        assert np.asarray(network.get_layer("scale")(white)).max() == pytest.approx(1)


def test_augmentation_is_for_training_only() -> None:
    from mammo_model.architectures import build_network

    network, training = build_network(16, SMALL), build_network(16, SMALL, training=True)
    assert set(kinds(training)) - set(kinds(network)) == {
        "RandomFlip",
        "RandomTranspose",
        "RandomRotation",
        "RandomTranslation",
        "RandomContrast",
    }
    network.set_weights(training.get_weights())
    patches = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1)).astype(np.uint8)
    np.testing.assert_allclose(network.predict_on_batch(patches), training.predict_on_batch(patches), rtol=1e-5)
    off = build_network(16, SMALL.model_copy(update={"augmentation": False}), training=True)
    assert kinds(off) == kinds(network)


def test_flips_and_quarter_turns_are_all_eight_and_nothing_else() -> None:
    import keras

    from mammo_model.augmentation import augmented

    inputs = keras.Input((5, 5, 1))
    settings = TrainingSettings(rotation=0, shift=0, contrast=0)
    layer = keras.Model(inputs, augmented(inputs, settings, itertools.count(1)))
    patch = np.random.default_rng(0).random((5, 5), np.float32)
    seen = np.asarray(layer(np.repeat(patch[None, ..., None], 400, 0), training=True))[..., 0]
    turned = [np.rot90(image, turns) for image in (patch, patch.T) for turns in range(4)]
    counts = [int((seen == image).all((1, 2)).sum()) for image in turned]
    assert sum(counts) == 400
    # Each 50 times on average, with a standard deviation of 6.6.
    assert min(counts) > 15


@pytest.mark.parametrize("change", ["rotation", "shift", "contrast"])
def test_a_random_change_changes_each_patch_in_another_way(change: str) -> None:
    import keras

    from mammo_model.augmentation import augmented

    none = {"flips": False, "rotation": 0, "shift": 0, "contrast": 0}
    settings = TrainingSettings.model_validate({**none, change: getattr(TrainingSettings(), change)})
    inputs = keras.Input((32, 32, 1))
    layer = keras.Model(inputs, augmented(inputs, settings, itertools.count(1)))
    patch = np.linspace(0.3, 0.7, 32 * 32, dtype=np.float32).reshape(32, 32)
    seen = np.asarray(layer(np.repeat(patch[None, ..., None], 8, 0), training=True))
    assert len(np.unique(seen.reshape(8, -1), axis=0)) == 8
    # No black comes in from outside.
    assert seen.min() > 0.25
    assert seen.max() < 0.75


def test_mixed_precision_has_float32_ends() -> None:
    from mammo_model import backend
    from mammo_model.architectures import build_network

    with backend.precision("mixed_float16"):
        model = build_network(16, SMALL, training=True)
    assert {layer.compute_dtype for layer in model.layers if type(layer).__name__ == "Conv2D"} == {"float16"}
    assert model.outputs[0].dtype == "float32"
    assert model.get_layer("scale").compute_dtype == "float32"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert {layer.compute_dtype for layer in build_network(16, SMALL).layers if type(layer).__name__ == "Conv2D"} == {
        "float32"
    }


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss(gamma: float) -> None:
    """Lin et al. 2017, equation 4; with gamma 0 it is cross-entropy."""
    from mammo_model.compiling import focal_loss

    targets = np.array([0, 2, 1])
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05]], np.float32)
    right = probabilities[np.arange(3), targets]
    loss = np.asarray(focal_loss(gamma, 3)(targets[:, None], probabilities))
    np.testing.assert_allclose(loss, -((1 - right) ** gamma) * np.log(right), rtol=1e-5)


def test_step_sizes() -> None:
    from mammo_model.compiling import learning_rate

    def sizes(**settings: Any) -> list[float]:
        schedule = learning_rate(TrainingSettings(learning_rate=0.1, **settings), 100)
        return [float(schedule(step)) for step in (0, 5, 10, 55, 100)]

    assert sizes(warmup=0.1) == pytest.approx([0, 0.05, 0.1, 0.05, 0], abs=1e-6)
    assert sizes(warmup=0.1, schedule="constant") == pytest.approx([0, 0.05, 0.1, 0.1, 0.1])
    assert sizes(warmup=0, schedule="constant") == pytest.approx([0.1] * 5)
    assert sizes(warmup=0)[0] == pytest.approx(0.1)


def test_class_weights_are_scikit_learns() -> None:
    from mammo_model.training import class_weights

    targets = np.repeat([0, 1, 3], [6, 3, 1])
    assert class_weights(targets, TrainingSettings()).tolist() == [1] * 5
    # n / (classes there * patches of the class).
    weights = class_weights(targets, TrainingSettings(class_weights="balanced"))
    assert weights == pytest.approx([10 / 18, 10 / 9, 1, 10 / 3, 1])


@pytest.mark.parametrize("name", ["vgg3-dropout", "resnet"])
def test_what_other_threads_draw_changes_no_network(name: ArchitectureName) -> None:
    from mammo_model.architectures import build_network

    settings = TrainingSettings(architecture=name, width=2, seed=3)
    networks = []
    for state in (0, 1):
        random.seed(state)
        networks.append(build_network(32, settings, training=True))
    # States of random numbers are among the variables.
    for ours, theirs in zip(*(network.variables for network in networks), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=ours.path)
    other = build_network(32, settings.model_copy(update={"seed": 4}), training=True)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(other.weights, networks[0].weights, strict=True))
