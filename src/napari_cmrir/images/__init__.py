"""Images: files in, arrays out; pairs, intensities, turned regions and generated samples."""
