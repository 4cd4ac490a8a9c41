"""The dock Find region beyond one drawn shape: labels, several searches, all matches, large images."""

import csv
import threading

import numpy as np
import pytest
import tifffile
from napari.layers import Shapes

from napari_cmrir.images.geometry import Region
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.napari.contributions import write_hits
from napari_cmrir.napari.pictures import read_picture
from napari_cmrir.repository.build import build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.model_file import sample_model
from napari_cmrir.search.query import search as search_in
from napari_cmrir.search.settings import SearchSettings


@pytest.fixture
def find(viewer, repository_path, query_layer, wait_for):
    """The dock as napari's menu opens it, with a repository: it sees the viewer through napari's proxy."""
    _, widget = viewer.window.add_plugin_dock_widget("napari-cmrir", "3. Find region")
    widget.repository.set_paths(repository_path)
    wait_for(lambda: widget.modality.count() == 2)
    return widget


@pytest.fixture
def done(find, wait_for):
    """Wait until the search is over and its hits are listed; layers may still be to come."""

    def wait():
        wait_for(lambda: not find.panel.is_running)
        wait_for(lambda: find.view.found is None or (find.view.list.count() and not find.view.is_busy))

    return wait


def like(layer, **other):
    """The placement of a layer, for one that lies on it."""
    names = ("scale", "translate", "rotate", "units")
    return {name: getattr(layer, name) for name in names} | other


def test_the_selected_label_of_an_active_labels_layer_is_searched_by_its_own_pixels(
    viewer, find, query_layer, done, wait_for, notifications
):
    y, x = np.mgrid[:128, :128]
    mask = ((y - 60) / 40) ** 2 + ((x - 64) / 34) ** 2 < 1
    fine = np.kron(mask, np.ones((2, 2), int)).astype(int) * 3  # painted at twice the resolution
    fine[:4, :4] = 1
    fine_pixels = {"scale": query_layer.scale / 2, "translate": query_layer.data_to_world((-0.25, -0.25))}
    labels = viewer.add_labels(fine, name="painted", **like(query_layer, **fine_pixels))
    assert find.region.layer is labels
    wait_for(lambda: find.what.text() == "Searches 2 x 2 px of query (label 1)")
    labels.selected_label = 3
    wait_for(lambda: find.what.text() == "Searches 67 x 79 px of query (label 3)")
    find.find()
    done()
    with open_repository(find.repository.path) as repository:
        region = Region.from_rectangle(21, 31, 79, 67)
        settings = SearchSettings(hits=find.hits.value())
        job = search_in(
            repository, query_layer.data, "SHG", region=region, mask=mask, pixel_size=0.5, settings=settings
        )
        expected = run(job)
    found = find.view.found
    assert found.region == region
    np.testing.assert_array_equal(found.result.mask, expected.mask)
    assert [hit.as_dict() for hit in found.result.hits] == [hit.as_dict() for hit in expected.hits]
    labels.selected_label = 2  # painted nowhere
    wait_for(lambda: "Label 2 of painted has no pixel on the image" in find.what.text())
    find.find()
    wait_for(lambda: any("has no pixel" in message for _, message in notifications))


def test_several_regions_are_searched_as_one_job_and_a_click_on_a_region_shows_its_hits(
    viewer, find, query_layer, done, wait_for, tmp_path, pairs_folder
):
    shapes = viewer.add_shapes(ndim=2, name="three", **like(query_layer))
    rectangles = [Region.from_rectangle(*first, 64, 60) for first in ((5, 5), (60, 60), (30, 20))]
    shapes.add_rectangles([one.corners() for one in rectangles])
    shapes.add_rectangles([Region.from_rectangle(0, 0, 9, 9).corners()])  # too small to be found
    shapes.selected_data = set()
    wait_for(lambda: not find.each.isHidden())
    find.each.setChecked(True)
    wait_for(lambda: find.what.text() == "Searches 4 regions on query, one by one")
    find.find()
    done()
    assert find.answers.count() == 3
    assert "Region 4: The region is 9 x 9 pixels, too small" in find.panel.message.text()
    for number in (1, 2, 0):
        shapes.selected_data = {number}
        wait_for(lambda number=number: find.answers.currentIndex() == number)
        done()
        corners = find.view.found.region.corners()
        np.testing.assert_allclose(corners, rectangles[number].corners(), atol=1e-6)
    find.view.export.export_all(tmp_path / "all.csv")
    wait_for(lambda: "all.csv" in find.panel.message.text())
    rows = (tmp_path / "all.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [f"Region {n}" for n in (1, 2, 3) for _ in range(4)]
    shapes.selected_data = {0, 1}  # of the selected ones only
    wait_for(lambda: find.what.text() == "Searches 2 regions on query, one by one")
    find.view.remove.click()
    wait_for(lambda: find.answers.isHidden() and not find.view.is_busy)


def test_open_images_and_a_folder_are_searched_as_one_job_each_and_told_in_a_table(
    viewer, find, query_layer, done, wait_for, tmp_path, pairs_folder
):
    second = viewer.add_image(read_image(pairs_folder / "sample-002_SHG.tif")[..., 0], name="2 SHG")
    viewer.add_image(read_image(pairs_folder / "sample-002_BF.tif"), name="2 BF", rgb=True)  # none of SHG
    find.more.find_open_images()
    done()
    assert [find.answers.itemText(row).split(":")[0] for row in range(2)] == ["query", "2 SHG"]
    find.answers.setCurrentIndex(1)
    done()
    assert find.view.found.query.image.data is second.data
    assert second.visible

    folder, table = tmp_path / "queries", tmp_path / "hits.csv"
    folder.mkdir()
    for name in ("sample-000_SHG.tif", "sample-003_SHG.tif", "sample-003_BF.tif"):
        (folder / name).write_bytes((pairs_folder / name).read_bytes())
    tifffile.imwrite(folder / "small_SHG.tif", np.zeros((20, 20), np.uint16))
    find.more.find_folder(folder, table)
    wait_for(lambda: str(table) in find.panel.message.text())
    message = find.panel.message.text()
    assert "of 3 images have a reliable match" in message
    assert "small_SHG.tif: The region is 20 x 20 pixels, too small" in message
    rows = list(csv.DictReader(table.open()))
    names = ["sample-000_SHG.tif", "sample-003_SHG.tif"]
    assert [row["query"] for row in rows] == [str(folder / name) for name in names for _ in range(4)]


def test_all_matches_in_a_slide_are_boxes_of_one_layer_with_their_poses(
    viewer, find, done, wait_for, tmp_path
):
    """A piece of tissue is pasted into other tissue three times, once turned a quarter."""
    piece = sample_pair(200, 256)
    tissue = piece.bf[64:192, 64:192]
    slide = sample_pair(1, 768).bf.copy()
    first = [(40, 60), (520, 400), (300, 600)]
    for (y, x), part in zip(first, (tissue, tissue, np.rot90(tissue)), strict=True):
        slide[y : y + 128, x : x + 128] = part
    tifffile.imwrite(tmp_path / "slide_BF.tif", slide, photometric="rgb")
    repository = tmp_path / "slide.cmrir"
    run(build_repository([tmp_path / "slide_BF.tif"], load_model(sample_model()), "BF", repository)).close()
    query = viewer.add_image(piece.shg[64:192, 64:192, 0], name="piece SHG")
    find.repository.set_paths(repository)
    wait_for(lambda: find.about.text().startswith("1 BF image"))
    find.image.choose(query)
    find.rotation.setValue(90)
    find.find()
    done()
    find.more.find_places()
    name = "3 matches in slide_BF.tif"
    wait_for(lambda: name in viewer.layers and not find.view.is_busy)
    layer = viewer.layers[name]
    assert isinstance(layer, Shapes)
    assert list(layer.features["rank"]) == [1, 2, 3]
    assert (layer.features["confidence"] > 0.9).all()
    found = {
        tuple(row[["y", "x"]].astype(float).round(-1)): round(row["rotation_degrees"] / 90)
        for _, row in layer.features.iterrows()
    }
    expected = [(y + 63.5, x + 63.5) for y, x in first]
    assert found == dict(zip([tuple(np.round(one, -1)) for one in expected], (0, 0, 1), strict=True))
    for box, (y, x) in zip(layer.data, layer.features[["y", "x"]].to_numpy(), strict=True):
        np.testing.assert_allclose(box.mean(axis=0), (y, x), atol=1e-6)
        assert Region.from_corners(box).height == pytest.approx(128, abs=1e-3)
    at_edge = [y < 64 + 0.35 * 128 for y in layer.features["y"]]  # its text is on the canvas, not on tissue
    blue, black = (0, 0x6C / 255, 1, 1), (0, 0, 0, 1)
    np.testing.assert_allclose(layer.text.color.array, [blue if one else black for one in at_edge], atol=1e-6)
    assert sorted(at_edge) == [False, False, True]
    image = viewer.layers["1 · slide_BF.tif"]
    np.testing.assert_allclose(layer.data_to_world((5, 6)), image.data_to_world((5, 6)))
    write_hits(str(tmp_path / "places.csv"), [layer.as_layer_data_tuple()])
    assert len((tmp_path / "places.csv").read_text().splitlines()) == 4
    find.view.remove.click()
    wait_for(lambda: layer not in viewer.layers and not find.view.is_busy)


def test_matches_found_before_the_hit_is_drawn_are_shown_when_it_is(
    viewer, find, query_layer, wait_for, monkeypatch
):
    """The hit's image lies on a slow disk."""
    may_read = threading.Event()

    def read_slowly(*arguments):
        may_read.wait()
        return read_picture(*arguments)

    monkeypatch.setattr("napari_cmrir.napari.hit_view.read_picture", read_slowly)
    find.image.choose(query_layer)
    find.find()
    wait_for(lambda: not find.panel.is_running)
    find.more.find_places()
    try:
        wait_for(lambda: "boxes of one layer" in find.panel.message.text())
        assert list(viewer.layers) == [query_layer]
    finally:
        may_read.set()
    wait_for(lambda: len(viewer.layers) == 4 and not find.view.is_busy)
    image, box, places = viewer.layers[1:]
    assert places.name.endswith(f"in {image.name.partition(' · ')[2]}")
    assert (box.visible, places.visible) == (False, True)
    find.view.how.setCurrentIndex(1)  # the places lay where the hit was
    wait_for(lambda: places not in viewer.layers and not find.view.is_busy)
    assert box.visible


def test_a_large_image_is_opened_lazily_and_only_its_region_is_read_for_a_search(
    viewer, find, query_layer, done, wait_for, tmp_path
):
    pixels = np.zeros((3000, 5000), np.uint16)
    pixels[2000:2128, 4000:4128] = query_layer.data
    path = tmp_path / "large_SHG.tif"
    with tifffile.TiffWriter(path) as file:
        micrometres = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
        file.write(pixels, tile=(256, 256), compression="zlib", photometric="minisblack", **micrometres)
    find.more.open_large(path)
    wait_for(lambda: find.image.layer.name == "large_SHG.tif")
    layer = find.image.layer
    assert layer.multiscale
    assert [level.shape for level in layer.data][:2] == [(3000, 5000), (1500, 2500)]
    assert (layer.scale.tolist(), str(layer.units[0])) == ([0.5, 0.5], "micrometer")
    read = []
    finest = layer.data[0]._image
    object.__setattr__(finest, "read_region", _noted(finest.read_region, read))
    find.new_region.click()
    find.region.layer.add_rectangles([Region.from_rectangle(2020, 4028, 80, 72).corners()])
    wait_for(lambda: find.what.text() == "Searches 72 x 80 px of large_SHG.tif (rectangle)")
    find.find()
    done()
    assert 80 * 72 < sum(height * width for height, width in read) < 400 * 400
    large = [hit.as_dict() for hit in find.view.found.result.hits]
    find.image.choose(query_layer)
    shapes = viewer.add_shapes(ndim=2, name="small", **like(query_layer))
    shapes.add_rectangles([Region.from_rectangle(20, 28, 80, 72).corners()])
    find.find()
    done()
    alone = find.view.found.result.hits
    assert [hit["image"] for hit in large] == [hit.image for hit in alone]
    np.testing.assert_allclose(
        large[0]["box"], alone[0].box, atol=1.5
    )  # beyond its border lies tissue, or none


def _noted(read, notes):
    def read_region(y, x, height, width):
        notes.append((height, width))
        return read(y, x, height, width)

    return read_region
