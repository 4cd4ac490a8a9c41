"""Which image of a TIFF is read, from which file, and what is refused because it is missing."""

from __future__ import annotations

import struct
import uuid
from contextlib import closing

import numpy as np
import pytest
import tifffile

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import find_images
from napari_cmrir.images.readers import open_image, read_image
from napari_cmrir.settings import ReadingSettings

pytestmark = pytest.mark.filterwarnings("ignore")
OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
HEIGHT, WIDTH = 24, 32


def _plane(value):
    return np.full((HEIGHT, WIDTH), value, np.uint8)


def _image(number, planes, *, channels=1, name=None, size=None):
    """Describe an image by its planes: (channel, file, uuid, page)."""
    data = "".join(
        f'<TiffData FirstC="{c}" IFD="{page}" PlaneCount="1">'
        + (f'<UUID FileName="{file}">{key}</UUID>' if file else "")
        + "</TiffData>"
        for c, file, key, page in planes
    )
    named = "".join(f'<Channel ID="Channel:{number}:{c}" Name="{number}-{c}"/>' for c in range(channels))
    scale = f' PhysicalSizeX="{size}" PhysicalSizeY="{size}"' if size else ""
    return (
        f'<Image ID="Image:{number}" Name="{name or f"Pos{number}"}"><Pixels ID="Pixels:{number}"'
        f' DimensionOrder="XYCZT" Type="uint8" SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="{channels}" SizeZ="1"'
        f' SizeT="1"{scale}>{named}{data}</Pixels></Image>'
    )


def _xml(own, *images):
    key = f' UUID="{own}"' if own else ""
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{OME}"{key}>{"".join(images)}</OME>'


def _keys(count):
    return [f"urn:uuid:{uuid.UUID(int=at + 1)}" for at in range(count)]


def _write(path, pages, xml, **options):
    with tifffile.TiffWriter(path) as file:
        for at, page in enumerate(pages):
            description = {"description": xml} if at == 0 else {}
            file.write(page, metadata=None, contiguous=False, **description, **options)


@pytest.fixture
def positions(tmp_path):
    """Three files of one position each, whose metadata list all positions."""
    keys, names = _keys(3), [f"S_Pos{at}.ome.tif" for at in range(3)]
    images = [_image(at, [(0, names[at], keys[at], 0)], size=(at + 1) / 10) for at in range(3)]
    for at, name in enumerate(names):
        _write(tmp_path / name, [_plane(50 * (at + 1))], _xml(keys[at], *images))
    return [tmp_path / name for name in names]


def test_each_position_of_a_multi_file_set_has_its_own_pixels_and_size(positions):
    for at, path in enumerate(positions):
        with closing(open_image(path)) as image:
            assert (image[:, :] == 50 * (at + 1)).all()
            assert image.pixel_size == pytest.approx((at + 1) / 10)
            assert image.channel_names == (f"{at}-0",)
    assert len(find_images([positions[0].parent])) == 3


def test_a_position_is_read_without_its_siblings_and_after_it_was_renamed(positions):
    positions[0].unlink()
    assert (read_image(positions[1]) == 100).all()
    renamed = positions[2].rename(positions[2].with_name("other.ome.tif"))
    assert (read_image(renamed) == 150).all()


@pytest.fixture
def channels(tmp_path):
    """Three files of one channel each, that are one image."""
    keys, names = _keys(3), [f"S_C{at}.ome.tif" for at in range(3)]
    image = _image(0, [(at, names[at], keys[at], 0) for at in range(3)], channels=3)
    for at, name in enumerate(names):
        _write(tmp_path / name, [_plane(10 * (at + 1))], _xml(keys[at], image))
    return [tmp_path / name for name in names]


def test_files_of_a_channel_each_are_one_image_that_a_folder_holds_once(channels):
    for path in channels:
        assert read_image(path)[0, 0].tolist() == [10, 20, 30]
    assert find_images([channels[0].parent]) == channels[:1]


def test_a_missing_file_of_a_set_is_named_and_the_channels_that_are_there_are_read(channels):
    channels[1].unlink()
    with pytest.raises(
        InputError, match=r"S_C0\.ome\.tif lacks 1 of 3 planes, which are in S_C1\.ome\.tif; copy"
    ):
        read_image(channels[0])
    assert read_image(channels[0], ReadingSettings(channels=(2,)))[0, 0].tolist() == [30]


def test_planes_that_the_metadata_promise_and_the_file_lacks_are_refused(tmp_path):
    path = tmp_path / "a.ome.tif"
    _write(path, [_plane(1)], _xml(None, _image(0, [(0, "", "", 0), (1, "", "", 1)], channels=2)))
    with pytest.raises(InputError, match="lacks 1 of 2 planes that its metadata promise"):
        read_image(path)


def test_images_in_another_order_than_their_pages(tmp_path):
    path = tmp_path / "a.ome.tif"
    first = _image(0, [(0, "", "", 1)], size=0.5, name="second page")
    second = _image(1, [(0, "", "", 0)], size=0.25, name="first page")
    _write(path, [_plane(1), _plane(2)], _xml(None, first, second))
    for series, value, size in [(0, 2, 0.5), (1, 1, 0.25)]:
        with closing(open_image(path, ReadingSettings(series=series))) as image:
            assert (int(image[:1, :1].max()), image.pixel_size) == (value, size)


def test_an_image_without_pixels_does_not_shift_the_metadata_of_the_others(tmp_path):
    path = tmp_path / "a.ome.tif"
    absent = _image(0, [(0, "absent.ome.tif", _keys(9)[8], 0)], size=9.0)
    _write(path, [_plane(7)], _xml(_keys(1)[0], absent, _image(1, [(0, "", "", 0)], size=0.5)))
    with closing(open_image(path)) as image:
        assert (int(image[:1, :1].max()), image.pixel_size, image.channel_names) == (7, 0.5, ("1-0",))


def test_a_companion_gives_the_metadata_and_is_no_image(tmp_path):
    keys, names = _keys(2), ["a.ome.tif", "b.ome.tif"]
    images = [_image(at, [(0, names[at], keys[at], 0)], size=0.5) for at in range(2)]
    (tmp_path / "set.companion.ome").write_text(_xml(None, *images))
    for at, name in enumerate(names):
        only = f'<BinaryOnly MetadataFile="set.companion.ome" UUID="{keys[0]}"/>'
        _write(tmp_path / name, [_plane(at + 5)], _xml(keys[at], only))
    for at, name in enumerate(names):
        with closing(open_image(tmp_path / name)) as image:
            assert (int(image[:1, :1].max()), image.pixel_size) == (at + 5, 0.5)
    with pytest.raises(InputError, match=r"set\.companion\.ome.*metadata.*a\.ome\.tif"):
        read_image(tmp_path / "set.companion.ome")
    (tmp_path / "set.companion.ome").unlink()
    assert (read_image(tmp_path / "b.ome.tif") == 6).all()


def test_the_image_of_the_largest_plane_is_read(tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(rng.integers(0, 255, (20, 40, 50), dtype=np.uint8), metadata={"axes": "ZYX"})
        file.write(rgb, photometric="rgb", metadata={"axes": "YXS"})
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif"), rgb)


@pytest.mark.parametrize("name", ["label image", "macro image", "Thumbnail", "Macro"])
def test_labels_and_macro_photographs_are_read_only_where_they_are_asked_for(tmp_path, name):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(
            np.full((80, 90, 3), 9, np.uint8), photometric="rgb", metadata={"axes": "YXS", "Name": name}
        )
        file.write(_plane(3), metadata={"axes": "YX", "Name": "core"})
    with closing(open_image(tmp_path / "a.ome.tif")) as image:
        assert image.shape == (HEIGHT, WIDTH, 1)
        assert "its main image" in image.reading_note
    assert read_image(tmp_path / "a.ome.tif", ReadingSettings(series=0)).shape == (80, 90, 3)


def test_a_link_to_an_image_in_the_same_folder_is_not_a_second_image(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", _plane(1))
    (tmp_path / "b.tif").symlink_to(tmp_path / "a.tif")
    assert [path.name for path in find_images([tmp_path])] == ["a.tif"]


@pytest.mark.parametrize("xml", ["<OME", "<OME><Image><Pixels SizeX='a'/></Image></OME>", "no xml"])
def test_damaged_ome_metadata_do_not_refuse_the_pixels(tmp_path, xml):
    _write(tmp_path / "a.ome.tif", [_plane(4)], xml)
    assert (read_image(tmp_path / "a.ome.tif") == 4).all()


def _set_tag(path, code, kind, raw):
    """Overwrite the type, the count of 1 and the value of a tag whose value fits, or whose place holds it."""
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[code]
        at, value_at = tag.offset, tag.valueoffset
    data = bytearray(path.read_bytes())
    data[at + 2 : at + 8] = kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
    where = at + 8 if len(raw) <= 4 else value_at
    data[where : where + len(raw)] = raw
    path.write_bytes(data)


SHORT, ASCII, RATIONAL, FLOAT, DOUBLE = 3, 2, 5, 11, 12


@pytest.mark.parametrize(
    ("kind", "x", "y", "expected"),
    [
        (SHORT, struct.pack("<H", 2), struct.pack("<H", 4), (0.25, 0.5)),
        (FLOAT, struct.pack("<f", 2), struct.pack("<f", 4), (0.25, 0.5)),
        (DOUBLE, struct.pack("<d", 2), struct.pack("<d", 4), (0.25, 0.5)),
        (RATIONAL, struct.pack("<II", 0, 0), struct.pack("<II", 2, 1), (0.5, 0.5)),
        (RATIONAL, struct.pack("<II", 1, 0), struct.pack("<II", 0, 1), None),
        (FLOAT, struct.pack("<f", float("nan")), struct.pack("<f", -1), None),
        (ASCII, b"x\0\0\0", b"y\0\0\0", None),
    ],
)
def test_resolution_tags_of_any_type_give_a_size_or_none(tmp_path, kind, x, y, expected):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, _plane(4), resolution=(9, 9), resolutionunit=5, metadata=None)
    _set_tag(path, 282, kind, x)
    _set_tag(path, 283, kind, y)
    with closing(open_image(path)) as image:
        assert (image[:, :] == 4).all()
        sides = None if image.pixel_size is None else image.pixel_sides
        assert sides == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [(250, "nm", 0.25), (5e-4, "mm", 0.5), (2500, "Å", 0.25), (0.5e6, "pm", 0.5), (5e-7, "m", 0.5),
     (0.02, "thou", 0.508), (5e-13, "Mm", 0.5), (2, "pixel", None), (0, "µm", None), (-1, "µm", None)],
)  # fmt: skip
def test_units_of_ome_are_converted(tmp_path, size, unit, expected):
    xml = _xml(None, _image(0, [(0, "", "", 0)], size=size))
    xml = xml.replace("PhysicalSizeX", f'PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}" PhysicalSizeX')
    _write(tmp_path / "a.ome.tif", [_plane(4)], xml.encode())
    with closing(open_image(tmp_path / "a.ome.tif")) as image:
        assert image.pixel_size == (None if expected is None else pytest.approx(expected))
