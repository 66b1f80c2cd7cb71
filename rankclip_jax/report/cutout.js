// Removes the white background of drawings, so that a crowded map stays readable: white areas that touch the edge of
// a cell become transparent. Photographs rarely have such areas.
const cutOut = (image, columns, rows, [cellHeight, cellWidth]) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const bytes = pixels.data;
  const white = (at) => bytes[at + 3] && bytes[at] > 243 && bytes[at + 1] > 243 && bytes[at + 2] > 243;
  const clear = (left, top) => {
    const stack = [];
    const visit = (x, y) => {
      if (x < 0 || y < 0 || x >= cellWidth || y >= cellHeight) return;
      const at = 4 * ((top + y) * canvas.width + left + x);
      if (!white(at)) return;
      bytes[at + 3] = 0;
      stack.push(x, y);
    };
    for (let x = 0; x < cellWidth; x++) [0, cellHeight - 1].forEach((y) => visit(x, y));
    for (let y = 0; y < cellHeight; y++) [0, cellWidth - 1].forEach((x) => visit(x, y));
    while (stack.length) {
      const y = stack.pop();
      const x = stack.pop();
      visit(x - 1, y);
      visit(x + 1, y);
      visit(x, y - 1);
      visit(x, y + 1);
    }
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) clear(column * cellWidth, row * cellHeight);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
};
