"""File names of images."""

# In a tar, the first of these that a sample has is its image. Pillow reads HEIC with the package pillow-heif.
EXTENSIONS = (
    "jpg", "jpeg", "png", "webp", "jfif", "jpe", "jfi", "pjpeg", "avif", "heic", "heif", "jp2", "j2k", "jpx", "jpf",
    "gif", "bmp", "dib", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "tga",
)  # fmt: skip
SUFFIXES = tuple(f".{extension}" for extension in EXTENSIONS)
