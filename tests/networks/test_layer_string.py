import pytest
import torch
from torch import nn

from evoprune.errors import NetworkError
from evoprune.networks.layer_string import Conv, Hidden, MaxPool, Output, build_layers, parse_layer_string


def build(text: str, image_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    return build_layers(parse_layer_string(text), image_shape, classes)


def test_parses_the_papers_network() -> None:
    assert parse_layer_string("2x128C3-MP2-256FC-10") == (
        Conv(128, 3),
        Conv(128, 3),
        MaxPool(2),
        Hidden(256),
        Output(10),
    )


def test_shapes_and_parameters_worked_out_by_hand() -> None:
    network = build("16C5-MP2-32C5-MP2-64FC-10")
    # 16*25 + 2*16; 32*16*25 + 2*32; (32*7*7)*64 + 64; 64*10 + 10
    assert sum(p.numel() for p in network.parameters()) == 432 + 12864 + 100416 + 650
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert network.get_submodule("pool2")(torch.zeros(1, 32, 15, 15)).shape == (1, 32, 7, 7)


def test_modules_have_readable_names() -> None:
    names = [name for name, _ in build("2x4C3-MP2-8FC-10").named_children()]
    assert names == [
        *("conv1", "norm1", "relu1", "conv2", "norm2", "relu2", "pool1"),
        *("flatten", "fc1", "relu3", "out"),
    ]


def test_even_kernels_lose_a_pixel() -> None:
    # padding (4 - 1) // 2 = 1: 28 + 2 - 4 + 1 = 27
    assert build("3C4-10")[:3](torch.zeros(1, 1, 28, 28)).shape == (1, 3, 27, 27)


def test_convolutions_have_no_bias_and_linear_layers_have() -> None:
    network = build("4C3-8FC-10")
    assert network.get_submodule("conv1").bias is None
    assert network.get_submodule("fc1").bias is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "2x128D3-MP2-10",
            "model.network: '2x128D3' (token 1 of '2x128D3-MP2-10') is not a layer; "
            "write 2x128C3, MP2, 256FC or the number of classes",
        ),
        ("16C5--10", "'' (token 2 of"),
        ("16C5-10-MP2", "'10' (token 2 of '16C5-10-MP2') is the number of classes and must come last"),
        ("16C5-MP2", "'MP2' (token 2 of '16C5-MP2') is the last layer but must be the number of classes"),
        ("64FC-16C3-10", "'16C3' (token 2 of '64FC-16C3-10') reads images but comes after a hidden layer"),
        ("0x16C3-10", "'0x16C3' (token 1 of '0x16C3-10') has a 0"),
        ("16C5\n-10", "is not a layer"),
    ],
)
def test_mistakes_point_at_the_token(text: str, message: str) -> None:
    with pytest.raises(NetworkError) as caught:
        parse_layer_string(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pooling_to_nothing_points_at_the_token() -> None:
    with pytest.raises(NetworkError, match=r"'MP8' \(token 3 of .* leaves nothing of 7 pixels a side"):
        build("4C3-MP4-MP8-10")


def test_number_of_classes_must_be_the_data_sets() -> None:
    with pytest.raises(NetworkError, match=r"'10' \(token 2 of '4C3-10'\) is not .* write 100"):
        build("4C3-10", classes=100)
