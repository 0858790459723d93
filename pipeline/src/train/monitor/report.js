// Values beside the pointer. The page is whole without it.
for (const plot of document.querySelectorAll('.plot')) {
  const { x, curves } = JSON.parse(plot.dataset.chart);
  const cursor = Object.assign(document.createElement('div'), { className: 'cursor', hidden: true });
  const tip = Object.assign(document.createElement('div'), { className: 'tip', hidden: true });
  plot.append(cursor, tip);
  const nearest = (points, at) => {
    let low = 0, high = points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < at) low = middle + 1; else high = middle;
    }
    const before = points[Math.max(low - 1, 0)], after = points[low];
    return at - before[0] < after[0] - at ? before : after;
  };
  const show = (event) => {
    const box = plot.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    const at = nearest(curves[0].points, x[0] + share * (x[1] - x[0]))[0];
    const lines = curves.filter(c => c.points.length).map(c => {
      const [step, y] = nearest(c.points, at);
      const where = step === at ? '' : ` (step ${step.toLocaleString('en')})`;
      return `${c.name} ${Number(y.toPrecision(5))}${where}`.trim();
    });
    tip.textContent = '';
    for (const line of [`step ${at.toLocaleString('en')}`, ...lines]) {
      tip.append(Object.assign(document.createElement('div'), { textContent: line }));
    }
    cursor.hidden = tip.hidden = false;
    const left = (at - x[0]) / (x[1] - x[0]) * box.width;
    cursor.style.left = `${left}px`;
    tip.style.left = left < box.width / 2 ? `${left + 10}px` : 'auto';
    tip.style.right = left < box.width / 2 ? 'auto' : `${box.width - left + 10}px`;
  };
  plot.addEventListener('pointermove', show);
  plot.addEventListener('pointerdown', show);
  plot.addEventListener('pointerleave', () => { cursor.hidden = tip.hidden = true; });
}
