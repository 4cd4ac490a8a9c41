"""World coordinates: what is drawn lands on the pixels that are seen under it, there and back."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Image, Shapes

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.polygons import polygon_region
from napari_cmrir.napari.coordinates import (
    Plane,
    map_points,
    pixels_of,
    plane_of,
    shape_data,
    transform_of,
)
from napari_cmrir.napari.hit_placement import Placement
from napari_cmrir.napari.region_query import Outline, drawn_outline, region_and_polygon

HEIGHT, WIDTH = 90, 120
LENGTHS = ("um", "nm")  # further apart, the 32-bit coordinates of shapes do not hold a pixel

sizes = st.floats(0.2, 5)
shifts = st.floats(-100, 100)
angles = st.floats(-180, 180)


def turn(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


@st.composite
def transforms(draw, ndim=2, similar=False):
    """Keywords of a layer: every part of its transform, and its units."""
    factor = draw(sizes)
    scale = [factor] * ndim if similar else [draw(sizes) for _ in range(ndim)]
    affine, rotation = np.eye(ndim + 1), np.eye(ndim)
    affine[-3:-1, -3:-1] = turn(draw(angles)) @ np.diag([1, 1] if similar else [draw(sizes), draw(sizes)])
    affine[:-1, -1] = [draw(shifts) for _ in range(ndim)]
    rotation[-2:, -2:] = turn(draw(angles))
    shear = np.zeros(ndim * (ndim - 1) // 2)
    shear[-1] = 0.0 if similar else draw(st.floats(-0.5, 0.5))
    return {
        "scale": scale,
        "translate": [draw(shifts) for _ in range(ndim)],
        "rotate": rotation,
        "shear": shear,
        "affine": affine,
        "units": (draw(st.sampled_from(LENGTHS)),) * ndim,
    }


@st.composite
def images(draw, similar=False):
    """An image layer: 2D or a stack, grey or RGB, one or several levels."""
    planes, rgb = draw(st.sampled_from([0, 3])), draw(st.booleans())
    shape = (*((planes,) if planes else ()), HEIGHT, WIDTH, *((3,) if rgb else ()))
    data = np.zeros(shape, np.uint8)
    many = draw(st.booleans())
    smaller = data[:, ::2, ::2] if planes else data[::2, ::2]
    ndim = 3 if planes else 2
    return Image(
        [data, smaller] if many else data,
        multiscale=many,
        rgb=rgb,
        name="query",
        **draw(transforms(ndim, similar)),
    )


regions = st.builds(
    Region,
    st.tuples(st.floats(10, 80), st.floats(10, 110)),
    st.floats(8, 60),
    st.floats(8, 60),
    st.floats(-44, 44),
)
quickly = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def viewer_with(*layers, plane=1):
    viewer = ViewerModel()
    for layer in layers:
        viewer.add_layer(layer)
    image = layers[0]
    if image.ndim == 3:
        point = image.data_to_world((plane, 0, 0))
        viewer.dims.set_point(0, point[0])
    return viewer


@quickly
@given(image=images(), region=regions, own=transforms())
def test_points_come_back_from_another_layer(image, region, own):
    shapes = Shapes(ndim=2, **own)
    plane = Plane((image.ndim - 2, image.ndim - 1), (1, 0, 0)[: image.ndim])
    there = shape_data(region.corners(), image, plane, shapes)
    world_point = image.data_to_world((1, 0, 0)[-image.ndim :])
    back = map_points(there, shapes, image, world_point if image.ndim == 3 else ())
    np.testing.assert_allclose(back[:, -2:], region.corners(), atol=1e-5)


@quickly
@given(image=images(similar=True), region=regions, first=st.integers(0, 3), mirrored=st.booleans())
def test_a_rectangle_drawn_from_any_corner_is_its_region(image, region, first, mirrored):
    shapes = Shapes(ndim=image.ndim, **transform_of(image))
    viewer = viewer_with(image, shapes)
    corners = np.roll(region.corners(), first, axis=0)[:: -1 if mirrored else 1]
    plane = Plane((image.ndim - 2, image.ndim - 1), (1, 0, 0)[: image.ndim])
    shapes.add_rectangles(shape_data(corners, image, plane, shapes))
    outline = drawn_outline(shapes, 0, image, viewer.dims)
    found, polygon = region_and_polygon(outline, (HEIGHT, WIDTH))
    assert polygon is None
    assert outline.plane.at[: image.ndim - 2] == (1,) * (image.ndim - 2)
    np.testing.assert_allclose(found.corners(), region.corners(), atol=1e-3)


def whole_mask(polygon, shape):
    """The mask of a polygon in an image of this shape."""
    region, mask = polygon_region(polygon, shape)
    y, x, height, width = map(int, region.rectangle)
    whole = np.zeros(shape, bool)
    whole[y : y + height, x : x + width] = mask
    return whole


@quickly
@given(image=images(), own=transforms(), kind=st.sampled_from(["ellipse", "polygon", "rectangle"]))
def test_what_lies_inside_on_the_canvas_lies_inside_the_mask(image, own, kind):
    """The mask, against napari's own conversion of every pixel centre to the world, in metres."""
    shapes = Shapes(ndim=2, **own)
    viewer = viewer_with(image)
    region = Region((45.2, 60.3), 40.6, 70.8, 20)
    plane = plane_of(image, viewer.dims)
    data = shape_data(region.corners(), image, plane, shapes)
    shapes.add(data, shape_type=kind)
    outline = drawn_outline(shapes, 0, image, viewer.dims)
    _, polygon = region_and_polygon(outline, (HEIGHT, WIDTH))
    if polygon is None:
        assert kind == "rectangle"
        return
    mask = whole_mask(polygon, (HEIGHT, WIDTH))
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    down = (c * (y - 45.2) + s * (x - 60.3)) / (40.6 / 2)
    right = (-s * (y - 45.2) + c * (x - 60.3)) / (70.8 / 2)
    distance = np.hypot(down, right) if kind == "ellipse" else np.maximum(abs(down), abs(right))
    clear = abs(distance - 1) > 0.02  # pixels on the very border may fall on either side
    np.testing.assert_array_equal(mask[clear], (distance < 1)[clear])


def test_units_are_converted():
    image = Image(np.zeros((100, 100)), scale=(0.5, 0.5), units=("um", "um"))
    shapes = Shapes(ndim=2, units=("nm", "nm"))
    np.testing.assert_allclose(map_points([[1000, 25000]], shapes, image), [[2, 50]])
    np.testing.assert_allclose(map_points([[2, 50]], image, shapes), [[1000, 25000]])


def test_units_of_different_kinds_count_as_equal_as_napari_draws_them():
    image = Image(np.zeros((100, 100)), units=("um", "um"))
    shapes = Shapes(ndim=2)  # in pixels
    np.testing.assert_allclose(map_points([[3, 4]], shapes, image), [[3, 4]])


def test_pixel_centres_are_integers():
    """A rectangle along the borders of pixels 10..29 x 40..79, as napari shows them, is these pixels."""
    pixels = np.arange(100 * 100, dtype=np.uint16).reshape(100, 100)
    image = Image(pixels, scale=(2, 2), translate=(7, -3))
    shapes = Shapes(
        [[[10 * 2 - 1 + 7, 40 * 2 - 1 - 3], [30 * 2 - 1 + 7, 80 * 2 - 1 - 3]]], shape_type="rectangle"
    )
    viewer = viewer_with(image, shapes)
    region, _ = region_and_polygon(drawn_outline(shapes, 0, image, viewer.dims), (100, 100))
    patch, mask = cut(pixels[..., np.newaxis], region)
    assert mask.all()
    np.testing.assert_array_equal(patch[..., 0], pixels[10:30, 40:80])


def test_a_rectangle_over_pixels_that_are_not_square_becomes_a_mask_where_it_is_turned():
    image = Image(np.zeros((100, 100)), scale=(2, 1))
    shapes = Shapes(Region((100, 50), 40, 40, 30).corners(), shape_type="rectangle")
    viewer = viewer_with(image, shapes)
    region, polygon = region_and_polygon(drawn_outline(shapes, 0, image, viewer.dims), (100, 100))
    assert region.rotation_degrees == 0
    mask = whole_mask(polygon, (100, 100))
    assert mask.sum() * 2 == pytest.approx(40 * 40, rel=0.02)  # each pixel is 2 by 1
    upright = Shapes([[[80, 30], [120, 70]]], shape_type="rectangle")
    region, polygon = region_and_polygon(drawn_outline(upright, 0, image, viewer.dims), (100, 100))
    assert polygon is None
    assert (region.height, region.width) == pytest.approx((20, 40))


def test_the_plane_is_the_one_that_was_drawn_on_and_else_the_one_shown():
    stack = np.arange(4 * 50 * 60, dtype=np.uint16).reshape(4, 50, 60)
    image = Image(stack, scale=(3, 1, 1))
    drawn = Shapes(ndim=3, **transform_of(image))
    drawn.add_rectangles([[2, 10, 10], [2, 10, 40], [2, 40, 40], [2, 40, 10]])
    flat = Shapes([[[10, 10], [40, 40]]], shape_type="rectangle")
    viewer = viewer_with(image, drawn, flat)
    viewer.dims.set_point(0, 3)  # of the world: plane 1
    assert plane_of(image, viewer.dims).at[0] == 1
    assert drawn_outline(drawn, 0, image, viewer.dims).plane.at[0] == 2
    assert drawn_outline(flat, 0, image, viewer.dims).plane.at[0] == 1
    pixels = pixels_of(stack, Plane((1, 2), (2, 0, 0)), rgb=False, multiscale=False)
    np.testing.assert_array_equal(pixels[..., 0], stack[2])


def test_the_axes_that_are_shown_are_y_and_x():
    stack = np.arange(40 * 50 * 60, dtype=np.uint32).reshape(40, 50, 60)
    image = Image(stack)
    viewer = viewer_with(image)
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_point(1, 7)
    plane = plane_of(image, viewer.dims)
    assert plane.axes == (0, 2)
    pixels = pixels_of(stack, plane, rgb=False, multiscale=False)
    np.testing.assert_array_equal(pixels[..., 0], stack[:, 7, :])
    shapes = Shapes(ndim=3)
    shapes.add_rectangles([[5, 7, 10], [5, 7, 30], [25, 7, 30], [25, 7, 10]])
    region, _ = region_and_polygon(drawn_outline(shapes, 0, image, viewer.dims), (40, 60))
    assert region.centre == (15, 20)


def test_pixels_of_every_kind_of_image():
    grey, colour = np.ones((8, 9), np.uint16), np.ones((8, 9, 4), np.uint8)
    plane = Plane((0, 1), (0, 0))
    assert pixels_of(grey, plane, rgb=False, multiscale=False).shape == (8, 9, 1)
    assert pixels_of(colour, plane, rgb=True, multiscale=False).shape == (8, 9, 3)
    assert pixels_of([grey, grey[::2, ::2]], plane, rgb=False, multiscale=True).shape == (8, 9, 1)
    with pytest.raises(InputError, match="sliders"):
        pixels_of(np.ones((4, 8, 9)), Plane((1, 2), (4, 0, 0)), rgb=False, multiscale=False)


def test_lines_and_paths_are_refused():
    image, shapes = Image(np.zeros((50, 50))), Shapes([[[1, 1], [30, 30]]], shape_type="line")
    viewer = viewer_with(image, shapes)
    with pytest.raises(InputError, match="encloses no region"):
        drawn_outline(shapes, 0, image, viewer.dims)


@pytest.mark.parametrize("kind", ["rectangle", "ellipse", "polygon"])
def test_an_outline_beside_the_image_is_refused(kind):
    beside = Region((200, 20), 20, 20).corners()
    with pytest.raises(InputError, match="outside the image"):
        region_and_polygon(Outline(kind, beside, Plane((0, 1), (0, 0))), (100, 100))


@example(image=Image(np.zeros((HEIGHT, WIDTH))))
@quickly
@given(image=images(similar=True))
def test_hits_lie_upright_with_the_querys_pixel_size_to_the_right_of_the_query(image):
    plane = Plane((image.ndim - 2, image.ndim - 1), (1, 0, 0)[: image.ndim])
    keywords = Placement.of(image, plane).beside()
    hit = Image(np.zeros((HEIGHT, WIDTH)), **keywords)
    assert list(hit.units) == list(image.units[-2:])
    np.testing.assert_allclose(hit.affine.affine_matrix, np.eye(3))
    one, two = (np.array(image.data_to_world((1,) * (image.ndim - 2) + at)) for at in ((0, 0), (0, 1)))
    assert hit.scale[1] == pytest.approx(np.linalg.norm(two - one))
    ends = [
        image.data_to_world((1,) * (image.ndim - 2) + tuple(c))
        for c in Region.whole((HEIGHT, WIDTH)).corners()
    ]
    top, left = np.min(ends, axis=0)[-2:]
    right = np.max(ends, axis=0)[-1]
    start = hit.extent.world[0] - hit.scale / 2
    np.testing.assert_allclose(start, (top, right + 0.03 * (right - left)), rtol=1e-6, atol=1e-6)
