"""Reading by region equals reading the whole image, for every format and every choice of planes."""

import struct
from contextlib import closing

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_cmrir.errors import InputError
from napari_cmrir.images.formats import tiff
from napari_cmrir.images.lazy_image import lazy_array
from napari_cmrir.images.readers import open_image, read_image
from napari_cmrir.settings import ReadingSettings

RGB = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
STACK = np.random.default_rng(1).integers(0, 2**16, (3, 2, 5, 40, 50), dtype=np.uint16)  # T, C, Z, Y, X


def write_zarr(path, levels, axes, *, scales=None, unit=None, version="0.5", channels=()):
    """Write an OME-Zarr image as its specification says."""
    group = zarr.create_group(path, zarr_format=3 if version == "0.5" else 2)
    kinds = {"t": "time", "c": "channel"}
    described = [
        {"name": axis, "type": kinds.get(axis, "space")} | ({"unit": unit} if unit and axis in "yx" else {})
        for axis in axes
    ]
    datasets = []
    for number, pixels in enumerate(levels):
        chunks = tuple(min(side, 32) for side in pixels.shape)
        group.create_array(str(number), shape=pixels.shape, dtype=pixels.dtype, chunks=chunks)[...] = pixels
        scale = scales[number] if scales else [1.0] * len(axes)
        transformations = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(number), "coordinateTransformations": transformations})
    ome = {"multiscales": [{"axes": described, "datasets": datasets, "version": version}]}
    ome["omero"] = {"channels": [{"label": name} for name in channels]}
    if version == "0.5":
        group.attrs["ome"] = ome | {"version": version}
    else:
        group.attrs.update(ome)


def _write_pyramid_tiff(path):
    with tifffile.TiffWriter(path, ome=True) as file:
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        file.write(RGB, tile=(32, 32), subifds=1, photometric="rgb", metadata=metadata)
        file.write(RGB[::2, ::2], tile=(32, 32), subfiletype=1, photometric="rgb")


WRITERS = {
    "plain.tif": lambda path: tifffile.imwrite(path, RGB),
    "tiled.tif": lambda path: tifffile.imwrite(path, RGB, tile=(32, 32), compression="zlib"),
    "strips.tif": lambda path: tifffile.imwrite(path, RGB, rowsperstrip=7, compression="lzw"),
    "big.tif": lambda path: tifffile.imwrite(path, RGB, bigtiff=True, byteorder=">", compression="zlib"),
    "bigendian.tif": lambda path: tifffile.imwrite(path, RGB.astype(np.uint16) * 257, byteorder=">"),
    "planar.tif": lambda path: tifffile.imwrite(
        path, np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate", tile=(32, 32)
    ),
    "pyramid.ome.tif": _write_pyramid_tiff,
    "cmyk.tif": lambda path: tifffile.imwrite(
        path, np.dstack([RGB, RGB[..., 0]]), photometric="separated", rowsperstrip=5, compression="zlib"
    ),
    "float.tif": lambda path: tifffile.imwrite(path, RGB[..., 0] / np.float32(255), tile=(16, 16)),
    "image.png": lambda path: cv2.imwrite(str(path), RGB),
    "image.jpg": lambda path: cv2.imwrite(str(path), RGB),
    "new.ome.zarr": lambda path: write_zarr(path, [np.moveaxis(RGB, -1, 0)], "cyx"),
    "old.ome.zarr": lambda path: write_zarr(path, [np.moveaxis(RGB, -1, 0)], "cyx", version="0.4"),
}


@pytest.fixture(params=WRITERS, scope="module")
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / request.param
    WRITERS[request.param](path)
    return path


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("whole_bytes", [0, 2**27])
def test_a_region_is_that_part_of_the_whole(path, whole_bytes, monkeypatch, data):
    whole = read_image(path)
    monkeypatch.setattr(tiff, "WHOLE_BYTES", whole_bytes)  # decoded by region, and at once
    with closing(open_image(path)) as image:
        assert image.shape == whole.shape
        for _ in range(3):
            rows, columns = (slice(*data.draw(st.tuples(*[st.integers(-200, 200)] * 2))) for _ in range(2))
            part = image[rows, columns]
            assert part.shape == whole[rows, columns].shape
            np.testing.assert_array_equal(part, whole[rows, columns])


def test_windows_equal_that_part_of_the_image(path):
    with closing(open_image(path)) as image:
        np.testing.assert_array_equal(image.window(-5, 20, 30, 400)[3:], np.asarray(image)[3:25, 20:])


@pytest.fixture(scope="module", params=["stack.ome.tif", "stack.ome.zarr"])
def stack(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("stacks") / request.param
    if path.suffix == ".zarr":
        scales = [[1.0, 1.0, 1.0, 250.0, 250.0]]
        write_zarr(path, [STACK], "tczyx", scales=scales, unit="nanometer", channels=("DAPI", "SHG"))
    else:
        metadata = {"axes": "TCZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
        metadata["Channel"] = {"Name": ["DAPI", "SHG"]}
        tifffile.imwrite(path, STACK, metadata=metadata, photometric="minisblack")
    return path


@pytest.mark.parametrize(
    ("asked", "expected", "choice"),
    [
        ({}, STACK[0].max(1), "point in time 0 of 3, maximum of 5 planes"),
        ({"z": "middle", "t": 2}, STACK[2, :, 2], "point in time 2 of 3, middle of 5 planes"),
        ({"z": 4, "channels": ("SHG",)}, STACK[0, 1:, 4], "plane 4 of 5, channels SHG"),
        ({"z": "max", "channels": (1, "DAPI")}, STACK[0, ::-1].max(1), "channels SHG, DAPI"),
    ],
)
def test_planes_times_and_channels_are_chosen_and_reported(stack, asked, expected, choice):
    with closing(open_image(stack, ReadingSettings(**asked))) as image:
        np.testing.assert_array_equal(image[:, :], np.moveaxis(expected, 0, -1))
        assert choice in image.reading_note
        assert image.pixel_size == pytest.approx(0.25)
    if not asked:
        assert image.channel_names == ("DAPI", "SHG")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"z": 5}, "5 planes, counted from 0; there is no number 5"),
        ({"t": 3}, "3 points in time"),
        ({"channels": ("GFP",)}, "no channel GFP; its channels, counted from 0, are DAPI, SHG"),
        ({"channels": (2,)}, "no channel 2"),
        ({"series": 1}, "has 1 series"),
        ({"level": 1}, "has 1 levels"),
    ],
)
def test_a_part_that_does_not_exist_is_refused(stack, asked, reason):
    with pytest.raises(InputError, match=reason):
        open_image(stack, ReadingSettings(**asked))


@pytest.fixture(scope="module", params=["pyramid.ome.tif", "pyramid.ome.zarr"])
def pyramid(request, tmp_path_factory):
    """A smooth image of 0.25, 0.5 and 1 micrometre, whose levels are told apart by their brightness."""
    path = tmp_path_factory.mktemp("pyramids") / request.param
    y, x = np.mgrid[:256, :320]
    smooth = (100 + 40 * np.sin(y / 30) + 40 * np.cos(x / 25)).astype(np.float32)
    mean = [smooth.reshape(256 // n, n, 320 // n, n).mean((1, 3)) + 5 * n for n in (1, 2, 4)]
    levels = [level.astype(np.uint8) for level in mean]
    if path.suffix == ".zarr":
        scales = [[0.25 * 2**n] * 2 for n in range(3)]
        write_zarr(path, levels, "yx", scales=scales, unit="micrometer")
    else:
        with tifffile.TiffWriter(path, ome=True) as file:
            metadata = {"axes": "YX", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm"}
            metadata |= {"PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
            file.write(levels[0], tile=(64, 64), subifds=2, metadata=metadata)
            file.write(levels[1], tile=(64, 64), subfiletype=1)
            file.write(levels[2], tile=(64, 64), subfiletype=1)
    return path, levels


@pytest.mark.parametrize(
    ("wanted", "level", "shape", "step"),
    [
        (None, 0, (256, 320, 1), 1),
        (0.125, 0, (512, 640, 1), 0.5),
        (0.25, 0, (256, 320, 1), 1),
        (0.4, 0, (160, 200, 1), 1.6),
        (0.505, 1, (128, 160, 1), 2),
        (0.8, 1, (80, 100, 1), 3.2),
        (2.0, 2, (32, 40, 1), 8),
    ],
)
def test_the_best_level_is_read_and_resampled(pyramid, wanted, level, shape, step):
    path, levels = pyramid
    with closing(open_image(path, pixel_size=wanted)) as image:
        assert image.shape == shape
        assert image.downsample == pytest.approx(step)
        assert f"level {level} of 3 of {0.25 * 2**level:.3g} µm pixels" in image.reading_note
        assert ("resampled" in image.reading_note) == (wanted not in (None, 0.25, 0.505))
        centre = image[shape[0] // 2 - 2 :, shape[1] // 2 - 2 :][:4, :4].mean()
        middle = levels[level].shape[0] // 2, levels[level].shape[1] // 2
        assert centre == pytest.approx(float(levels[level][middle]), abs=6)


def test_the_given_level_is_read(pyramid):
    path, levels = pyramid
    with closing(open_image(path, ReadingSettings(level=2))) as image:
        np.testing.assert_array_equal(image[:, :][..., 0], levels[2])
        assert image.pixel_size == pytest.approx(1.0)


def test_a_given_pixel_size_overrides_the_files(pyramid):
    with closing(open_image(pyramid[0], ReadingSettings(pixel_size=0.5), pixel_size=1.0)) as image:
        assert image.shape == (128, 160, 1)
        assert "level 1" in image.reading_note


def test_an_unknown_pixel_size_is_reported_as_an_assumption(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB, resolution=(72, 72))
    with closing(open_image(tmp_path / "a.tif", pixel_size=0.5)) as image:
        assert image.shape == RGB.shape
        assert "taken to have the model's, 0.5 µm" in image.assumption


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"resolution": (96, 96), "resolutionunit": "INCH"}, None),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": "um"}}, 0.25),
        ({"description": "Aperio Image Library v1\n|AppMag = 20|MPP = 0.4990", "metadata": None}, 0.499),
    ],
)
def test_pixel_sizes_of_tiffs(tmp_path, options, expected):
    tifffile.imwrite(tmp_path / "a.tif", RGB[..., 0], **options)
    with closing(open_image(tmp_path / "a.tif")) as image:
        assert image.pixel_size == (None if expected is None else pytest.approx(expected))


def test_a_slides_largest_series_is_read_not_its_label(tmp_path):
    path = tmp_path / "slide.svs"
    with tifffile.TiffWriter(path) as file:
        description = "Aperio Image Library v12\r\n130x90 (32x32)|AppMag = 20|MPP = 0.5"
        file.write(RGB, tile=(32, 32), description=description, metadata=None, photometric="rgb")
        file.write(RGB[::3, ::3], description="Aperio thumbnail", metadata=None, photometric="rgb")
        file.write(RGB[::2, ::2], tile=(32, 32), description=description, metadata=None, photometric="rgb")
        file.write(RGB[:30, :30], description="Aperio label 30x30", metadata=None, photometric="rgb")
    with closing(open_image(path)) as image:
        np.testing.assert_array_equal(image[:, :], RGB)
        assert image.pixel_size == pytest.approx(0.5)
        assert "the largest" in image.reading_note
    with closing(open_image(path, pixel_size=1.0)) as image:
        assert image.downsample == 2
        np.testing.assert_array_equal(image[:, :], RGB[::2, ::2])


def _write_ndpi(path):
    """Write a Hamamatsu slide: pages that name their maker and magnification, and offsets of 64 bits."""
    plain = path.with_suffix(".tif")
    with tifffile.TiffWriter(plain) as file:
        pages = [(RGB, 20.0), (RGB[::2, ::2], 10.0), (RGB[:30, :70], -1.0)]
        for number, (pixels, magnification) in enumerate(pages):
            tags = [(271, "s", 0, "Hamamatsu", True), (65420, "I", 1, 1, True)]
            tags += [(65421, "f", 1, magnification, True), (65427, "s", 0, "slide", True)]
            size = 20000 / 2**number
            file.write(
                pixels,
                photometric="rgb",
                metadata=None,
                extratags=tags,
                resolution=(size, size),
                resolutionunit="CENTIMETER",
            )

    data = bytearray(plain.read_bytes())
    tables = []
    with tifffile.TiffFile(plain) as file:
        for page in file.pages:
            (n_tags,) = struct.unpack_from("<H", data, page.offset)
            tables.append((n_tags, data[page.offset : page.offset + 2 + 12 * n_tags]))
    struct.pack_into("<Q", data, 4, len(data))
    for n_tags, table in tables:
        following = len(data) + len(table) + 8 + 4 * n_tags
        is_last = table is tables[-1][1]
        data += table + struct.pack("<Q", 0 if is_last else following) + bytes(4 * n_tags)
    path.write_bytes(data)


def _write_scn(path):
    """Write a Leica slide: XML of collections, images, and the pages of their resolutions."""
    pages = [(RGB[:30, :30], (0, 0)), (RGB, (1, 0)), (RGB[::2, ::2], (1, 1))]
    images = ["", ""]
    for ifd, (pixels, (image, level)) in enumerate(pages):
        height, width = pixels.shape[:2]
        images[image] += f'<dimension sizeX="{width}" sizeY="{height}" r="{level}" ifd="{ifd}" />'
    described = "".join(
        f'<image name="{at}"><pixels>{each}</pixels></image>' for at, each in enumerate(images)
    )
    xml = '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
    xml += f"<collection>{described}</collection></scn>"
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for ifd, (pixels, (_, level)) in enumerate(pages):
            size = 20000 / 2**level
            file.write(
                pixels,
                tile=(32, 32),
                photometric="rgb",
                description=xml if ifd == 0 else None,
                metadata=None,
                resolution=(size, size),
                resolutionunit="CENTIMETER",
            )


@pytest.mark.parametrize(("name", "write"), [("a.ndpi", _write_ndpi), ("a.scn", _write_scn)])
def test_slides_of_other_makers_are_read_at_the_best_level(tmp_path, name, write):
    path = tmp_path / name
    write(path)
    with closing(open_image(path)) as image:
        np.testing.assert_array_equal(image[:, :], RGB)
        assert image.pixel_size == pytest.approx(0.5)
    with closing(open_image(path, pixel_size=1.0)) as image:
        np.testing.assert_array_equal(image[:, :], RGB[::2, ::2])
        assert "the largest, level 1 of 2" in image.reading_note
    with tifffile.TiffFile(path) as file:  # tifffile itself takes it for that maker's
        assert file.is_ndpi or file.is_scn


def test_a_cut_off_file_that_is_read_by_region_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, tile=(32, 32))
    path.write_bytes(path.read_bytes()[:-2000])
    monkeypatch.setattr(tiff, "WHOLE_BYTES", 0)
    with pytest.raises(InputError, match="cut off"):
        open_image(path)


def test_arrays_of_other_dimensions_are_refused():
    with pytest.raises(InputError, match="4 dimensions"):
        lazy_array(np.zeros((2, 3, 4, 5)))
    with pytest.raises(InputError, match="empty"):
        lazy_array(np.zeros((0, 3)))


def test_other_formats_are_read_by_bioio_where_it_is_installed(tmp_path):
    pytest.importorskip("bioio_imageio", reason="bioio and its imageio plugin are not installed")
    Image.fromarray(RGB[..., 0] // 2).save(tmp_path / "a.gif")
    whole = read_image(tmp_path / "a.gif")
    with closing(open_image(tmp_path / "a.gif")) as image:
        np.testing.assert_array_equal(image[5:20, 30:], whole[5:20, 30:])
    assert np.abs(whole[..., 0].astype(int) - RGB[..., 0] // 2).max() <= 2


def test_without_a_reader_a_format_is_refused(tmp_path):
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE" + bytes(100))
    with pytest.raises(InputError, match=r"a\.czi is not an image that can be read"):
        open_image(tmp_path / "a.czi")
