"""Nodes in short notation or from a cluster become groups of interchangeable ones."""

from __future__ import annotations

import itertools

import pytest

from qwenft_plan.errors import SpecError
from qwenft_plan.hardware import CPU, GIB, find_device
from qwenft_plan.inventory import Inventory, NodeShape

NOTATIONS = [
    ("1x1xL4", [(1, "L4-24GB")]),
    ("2x8xH100-80G", [(8, "H100-80GB")] * 2),
    ("2x8xH100", [(8, "H100-80GB")] * 2),
    ("1x8xA100-40G", [(8, "A100-40GB")]),
    ("1x8xA100 80GB", [(8, "A100-80GB")]),
    ("1x4xNVIDIA-A100-SXM4-40GB", [(4, "A100-40GB")]),
    ("3x8xMI300X", [(8, "MI300X-192GB")] * 3),
    ("2x4xcpu", [(4, "CPU")] * 2),
    ("1x72xGB200", [(72, "GB200-186GB")]),
    ("1x8xH100,2x4xL40S", [(8, "H100-80GB"), (4, "L40S-48GB"), (4, "L40S-48GB")]),
    (" 1x8xH100 , 1x2xcpu ", [(8, "H100-80GB"), (2, "CPU")]),
]


def node(name: str = "a", product: str = "H100-80G", devices: int = 8, **more: float) -> NodeShape:
    return NodeShape(name=name, product=product, devices=devices, **more)  # type: ignore[arg-type]


def inventory(*nodes: NodeShape) -> Inventory:
    return Inventory(nodes=nodes)


def error_of(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        Inventory.parse(text)
    return caught.value


@pytest.mark.parametrize(("text", "expected"), NOTATIONS)
def test_the_short_notation_is_nodes_times_devices_times_product(
    text: str, expected: list[tuple[int, str]]
) -> None:
    found = Inventory.parse(text).nodes
    assert [(node.devices, node.device.name) for node in found] == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "8xH100",
        "x8xH100",
        "2x8",
        "2x8x",
        "2*8*H100",
        "-1x8xH100",
        "1x8xH100,",
        "two x 8 x H100",
        "1.5x8xH100",
        "1x8x80G",
    ],
)
def test_another_notation_is_refused_with_two_examples(text: str) -> None:
    error = error_of(text)
    assert error.path == "--on"
    assert "2x8xH100-80G or 2x4xcpu" in error.message


@pytest.mark.parametrize("text", ["1x8xTPU", "2x4xK80", "1x1xgpu"])
def test_an_unknown_product_is_named(text: str) -> None:
    error = error_of(text)
    assert (error.path, "unknown accelerator" in error.message) == ("--on", True)
    assert text.rsplit("x", 1)[1] in error.message


@pytest.mark.parametrize("text", ["0x8xH100", "1x0xH100", "99999x8xH100", "1x73xH100"])
def test_absurd_counts_are_refused_with_the_bounds(text: str) -> None:
    assert "1 to 4096 nodes of 1 to 72 devices" in error_of(text).message


def test_parsed_nodes_have_names_of_their_own() -> None:
    names = [node.name for node in Inventory.parse("2x8xH100,3x4xL4").nodes]
    assert len(set(names)) == 5


@pytest.mark.parametrize(
    ("text", "gibibytes"),
    [("1x1xcpu-4G", 4), ("1x1xcpu-64GB", 64), ("1x1xcpu-16Gi", 16), ("1x1xcpu-2GiB", 2)],
)
def test_the_notation_may_say_how_much_memory_a_cpu_process_has(text: str, gibibytes: int) -> None:
    assert Inventory.parse(text).nodes[0].device.memory == gibibytes * GIB


@pytest.mark.parametrize("text", ["1x1xcpu-many", "1x1xcpu-4T", "1x1xcpu-"])
def test_a_size_of_a_cpu_process_that_nobody_would_read_is_refused(text: str) -> None:
    assert error_of(text).path == "--on"


def test_a_cpu_process_without_a_size_has_the_table_s_memory() -> None:
    assert Inventory.parse("1x2xcpu").nodes[0].device.memory == CPU.memory


@pytest.mark.parametrize(
    ("product", "is_cpu"), [("cpu", True), ("cpu-4G", True), ("H100", False), ("MI300X", False)]
)
def test_a_node_knows_whether_its_devices_are_processes(product: str, *, is_cpu: bool) -> None:
    assert node(product=product).is_cpu is is_cpu


def test_a_node_reads_the_table_where_it_says_nothing() -> None:
    assert node().device == find_device("H100-80GB")


def test_a_node_s_own_memory_and_links_win_over_the_table() -> None:
    own = node(
        device_memory_bytes=70 * GIB, network_bytes_per_second=5e9, link_bytes_per_second=9e9
    )
    assert (own.device.memory, own.device.network, own.device.link) == (70 * GIB, 5e9, 9e9)


def test_more_cores_make_a_cpu_process_faster() -> None:
    assert node(product="cpu", cpus_per_process=4).device.matmul_fp32 == 4 * CPU.matmul_fp32


def test_an_unknown_product_of_a_node_is_named_with_the_node() -> None:
    with pytest.raises(SpecError, match="unknown accelerator 'K80' on node old-1"):
        _ = node("old-1", "K80").device


def test_equal_nodes_form_one_group() -> None:
    (group,) = Inventory.parse("3x8xH100").groups()
    assert (group.count, group.devices, group.device.name) == (3, 8, "H100-80GB")


def test_a_node_with_more_devices_counts_in_the_groups_of_fewer() -> None:
    groups = Inventory.parse("1x8xH100,2x4xH100").groups()
    assert [(group.count, group.devices) for group in groups] == [(1, 8), (3, 4)]


def test_products_are_never_mixed_in_one_group() -> None:
    groups = Inventory.parse("1x8xH100,2x8xA100-80G,1x2xcpu").groups()
    found = {(group.device.name, group.count, group.devices) for group in groups}
    assert found == {("H100-80GB", 1, 8), ("A100-80GB", 2, 8), ("CPU", 1, 2)}


def test_variants_of_one_chip_are_two_products() -> None:
    groups = Inventory.parse("1x8xA100-40G,1x8xA100-80G").groups()
    assert {group.device.name for group in groups} == {"A100-40GB", "A100-80GB"}


def test_two_ways_to_write_one_product_are_one_group() -> None:
    (group,) = inventory(node("a", "H100"), node("b", "NVIDIA-H100-80GB-HBM3")).groups()
    assert group.count == 2


def test_nodes_without_free_devices_are_in_no_group() -> None:
    assert inventory(node(devices=0), node("b", devices=0)).groups() == ()
    (group,) = inventory(node(devices=0), node("b", devices=2)).groups()
    assert (group.count, group.devices) == (1, 2)


def test_an_empty_inventory_has_no_groups() -> None:
    assert inventory().groups() == ()


@pytest.mark.parametrize(
    ("field", "attribute"),
    [
        ("device_memory_bytes", "memory"),
        ("network_bytes_per_second", "network"),
        ("link_bytes_per_second", "link"),
    ],
)
def test_a_group_counts_with_the_smallest_of_its_nodes(field: str, attribute: str) -> None:
    nodes = [node(str(index), **{field: size}) for index, size in enumerate((3e9, 1e9, 2e9))]
    (group,) = inventory(*nodes).groups()
    assert getattr(group.device, attribute) == 1e9


def test_a_group_of_cpu_nodes_counts_with_the_fewest_cores_in_any_order() -> None:
    nodes = [node(str(cpus), "cpu", 1, cpus_per_process=cpus) for cpus in (4, 1, 2)]
    slowest = node("1", "cpu", 1, cpus_per_process=1).device
    for order in itertools.permutations(nodes):
        (group,) = inventory(*order).groups()
        assert group.device == slowest


def test_smaller_nodes_do_not_slow_the_group_that_leaves_them_out() -> None:
    fast, slow = node("a", devices=8), node("b", devices=4, network_bytes_per_second=1e9)
    large, small = inventory(fast, slow).groups()
    assert (large.devices, large.device.network) == (8, fast.device.network)
    assert (small.devices, small.device.network) == (4, 1e9)


def test_order_and_names_of_nodes_do_not_change_the_groups() -> None:
    shapes = [("H100", 8), ("H100", 4), ("L4", 2), ("cpu", 3)]
    groups = {
        inventory(*(node(f"n{i}", *shape) for i, shape in enumerate(order))).groups()
        for order in itertools.permutations(shapes)
    }
    assert len(groups) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2x8xH100", "2×8 H100-80GB"),
        ("1x1xcpu", "1×1 CPU"),
        ("1x8xH100,2x4xL4", "2×4 L4-24GB + 1×8 H100-80GB"),
    ],
)
def test_an_inventory_describes_itself_in_one_line(text: str, expected: str) -> None:
    assert Inventory.parse(text).describe() == expected


def test_an_empty_inventory_says_so() -> None:
    assert inventory().describe() == "no nodes"


def test_a_group_names_who_gave_the_rate_of_its_slowest_network() -> None:
    fast = node("a", network_bytes_per_second=50e9, network_source="one")  # type: ignore[arg-type]
    slow = node("b", network_bytes_per_second=10e9, network_source="two")  # type: ignore[arg-type]
    for order in ((fast, slow), (slow, fast)):
        (group,) = inventory(*order).groups()
        assert (group.device.network, group.network_source) == (10e9, "two")
    assert inventory(node()).groups()[0].network_source == ""


def test_equal_rates_from_two_hands_are_told_alike_in_any_order() -> None:
    one = node("a", network_bytes_per_second=10e9, network_source="one")  # type: ignore[arg-type]
    two = node("b", network_bytes_per_second=10e9, network_source="two")  # type: ignore[arg-type]
    assert inventory(one, two).groups() == inventory(two, one).groups()
