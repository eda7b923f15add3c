"""Philox 4x32-10: the published vectors, the C++ header against the PyTorch one, and the dropout masks."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import fpm_cli.kernels.common
from fpm_cli.kernels.common.philox import dropout_mask, philox4x32_10

ONES = 0xFFFFFFFF
# Random123, tests/kat_vectors, `philox4x32 10`: counter, key, words.
PUBLISHED = [
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES, ONES, ONES, ONES], (ONES, ONES), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
PROGRAM = """
#include "philox.h"
using namespace fpm;
extern "C" void words(const uint32_t* counter, uint32_t key0, uint32_t key1, uint32_t* out) {
    const PhiloxWords words = philox4x32_10({{counter[0], counter[1], counter[2], counter[3]}}, key0, key1);
    for (int i = 0; i < 4; ++i) out[i] = words.word[i];
}
extern "C" void mask(uint64_t seed, uint32_t stream, uint64_t first, uint64_t count, double p, bool* out) {
    const uint32_t threshold = dropout_threshold(p);
    for (uint64_t i = 0; i < count; ++i) out[i] = dropout_keeps(seed, stream, first + i, threshold);
}
"""


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("philox")
    (folder / "philox.cpp").write_text(PROGRAM)
    [sources] = fpm_cli.kernels.common.__path__
    library = folder / "philox.so"
    command = ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{sources}", "-o", library]
    subprocess.run([*command, folder / "philox.cpp"], check=True)
    assert Path(sources, "philox.h").is_file()
    return ctypes.CDLL(library)


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
def test_published_vectors(counter, key, words):
    assert philox4x32_10(torch.tensor(counter), key).tolist() == words


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
def test_header_gives_the_published_vectors(header, counter, key, words):
    out = (ctypes.c_uint32 * 4)()
    header.words((ctypes.c_uint32 * 4)(*counter), ctypes.c_uint32(key[0]), ctypes.c_uint32(key[1]), out)
    assert list(out) == words


@pytest.mark.parametrize("first", [0, 2**34 - 64, 2**40])  # the group's index passes 32 bits at 2^34 elements
@pytest.mark.parametrize(("seed", "probability"), [(0, 0.1), (2**62 + 12345, 0.5), (7, 0.0)])
def test_header_and_reference_keep_the_same_elements(header, first, seed, probability):
    out = np.empty(256, dtype=bool)
    arguments = ctypes.c_uint64(seed), ctypes.c_uint32(83), ctypes.c_uint64(first), ctypes.c_uint64(256)
    header.mask(*arguments, ctypes.c_double(probability), out.ctypes.data_as(ctypes.c_void_p))
    kept = dropout_mask(first + torch.arange(256), probability, seed, 83)
    assert kept.tolist() == out.tolist()


def test_share_and_independence_of_streams():
    elements = torch.arange(2**20)
    masks = torch.stack([~dropout_mask(elements, 0.1, 1234, stream) for stream in (1, 2, 9)]).double()
    shares = masks.mean(dim=1)
    deviation = (0.1 * 0.9 / 2**20) ** 0.5
    assert ((shares - 0.1).abs() < 4 * deviation).all()
    both = torch.stack([(masks[0] * masks[1]).mean(), (masks[0] * masks[2]).mean()])
    neighbours = torch.stack([(masks[:, 1:] * masks[:, :-1]).mean(), (masks[:, 4:] * masks[:, :-4]).mean()])
    assert (both - 0.01).abs().max() < 4 * 0.1 / 2**10
    assert (neighbours - 0.01).abs().max() < 4 * 0.1 / 2**10
