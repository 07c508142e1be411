(() => {
  'use strict';

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // What a field sorts by: its own number, the number its text begins with, or its text.
  const key = (cell, numeric) => {
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    // The mark of a method is an element, its name is not.
    const words = [...cell.childNodes].filter((part) => part.nodeType === Node.TEXT_NODE);
    const text = words.map((part) => part.data).join('').trim();
    if (!numeric) return text.toLowerCase() || null;
    const number = parseFloat(text.replace('\u2212', '-').replaceAll(',', ''));
    return Number.isNaN(number) ? null : number;
  };

  const sort = (head) => {
    const row = head.parentElement;
    const body = row.closest('table').tBodies[0];
    const index = [...row.children].indexOf(head);
    const numeric = head.hasAttribute('data-num');
    const before = head.getAttribute('aria-sort');
    const rising = before ? before === 'descending' : !numeric;
    for (const other of row.children) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', rising ? 'ascending' : 'descending');
    const lines = [...body.rows].map((line) => [key(line.cells[index], numeric), line]);
    lines.sort(([one], [two]) => {
      // What has no value stands last, whichever way round.
      if (one === null || two === null) return (one === null) - (two === null);
      const order = one < two ? -1 : one > two ? 1 : 0;
      return rising ? order : -order;
    });
    body.append(...lines.map(([, line]) => line));
  };

  for (const button of all('thead button')) {
    button.addEventListener('click', () => sort(button.parentElement));
  }

  for (const input of all('input[data-filter]')) {
    const table = document.getElementById(input.dataset.filter);
    const count = document.getElementById(`${input.dataset.filter}-count`);
    input.addEventListener('input', () => {
      const wanted = input.value.trim().toLowerCase();
      const lines = [...table.tBodies[0].rows];
      for (const line of lines) line.hidden = !line.textContent.toLowerCase().includes(wanted);
      const shown = lines.filter((line) => !line.hidden).length;
      count.textContent = wanted ? `${shown} of ${lines.length}` : '';
    });
  }

  // Every set of conditions has figures and names of methods of its own.
  const block = (button) => button.closest('article');

  const show = (button, shown) => {
    button.setAttribute('aria-pressed', String(shown));
    for (const part of all(`svg .${button.dataset.series}`, block(button))) part.classList.toggle('off', !shown);
  };

  const light = (button, shown) => {
    block(button).classList.toggle('focus', shown);
    for (const part of all(`svg .${button.dataset.series}`, block(button))) part.classList.toggle('hot', shown);
  };

  for (const button of all('button[data-series]')) {
    button.addEventListener('click', () => show(button, button.getAttribute('aria-pressed') !== 'true'));
    for (const kind of ['pointerenter', 'focus']) button.addEventListener(kind, () => light(button, true));
    for (const kind of ['pointerleave', 'blur']) button.addEventListener(kind, () => light(button, false));
  }
  for (const button of all('button[data-all]')) {
    const series = all('button[data-series]', block(button));
    button.addEventListener('click', () => series.forEach((one) => show(one, button.dataset.all === 'true')));
  }

  const settled = (text) => text.replace(/var\((--\w+)\)/g, (_, name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim().replaceAll('"', "'"));

  // A figure as a file of its own, in the colors of the page as it is shown.
  const standalone = (svg) => {
    const copy = svg.cloneNode(true);
    const [, , width, height] = copy.getAttribute('viewBox').split(' ').map(Number);
    for (const part of all('.off', copy)) part.remove();
    copy.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
    copy.setAttribute('width', width);
    copy.setAttribute('height', height);
    copy.setAttribute('style', 'background:var(--paper);font-family:var(--font)');
    const style = document.createElementNS('http://www.w3.org/2000/svg', 'style');
    style.textContent = '*{stroke-linejoin:round;stroke-linecap:butt}.band{opacity:.55}.band.lead{opacity:1}';
    copy.prepend(style);
    return { width, height, text: settled(new XMLSerializer().serializeToString(copy)) };
  };

  const save = (content, name) => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(content);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const drawn = async ({ width, height, text }) => {
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent(text)}`;
    await image.decode();
    const canvas = document.createElement('canvas');
    // Twice as fine as most screens, and a card of 1200 x 630 as it is.
    const scale = width < 1200 ? 3 : 1;
    [canvas.width, canvas.height] = [width * scale, height * scale];
    const brush = canvas.getContext('2d');
    brush.fillStyle = settled('var(--paper)');
    brush.fillRect(0, 0, canvas.width, canvas.height);
    brush.drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
  };

  for (const button of all('button[data-save]')) {
    button.addEventListener('click', async () => {
      const svg = all('svg', button.closest('figure')).find((one) => one.getClientRects().length);
      const figure = standalone(svg);
      const form = button.dataset.save;
      const name = svg.getAttribute('aria-labelledby').split('-title')[0];
      const content = form === 'png' ? await drawn(figure) : new Blob([figure.text], { type: 'image/svg+xml' });
      save(content, `${name}.${form}`);
    });
  }

  const copy = async (part) => {
    try {
      await navigator.clipboard.writeText(part.textContent);
    } catch {
      // Where the browser does not lend its clipboard, the text is left selected.
      getSelection().selectAllChildren(part);
      return document.execCommand('copy');
    }
    return true;
  };

  for (const button of all('button[data-copy]')) {
    button.addEventListener('click', async () => {
      button.textContent = await copy(button.parentElement.querySelector('pre')) ? 'copied' : 'press Ctrl+C';
      setTimeout(() => { button.textContent = 'copy'; }, 2000);
    });
  }

  for (const part of all('[data-js]')) part.hidden = false;

  // On paper nothing can be opened.
  let closed = [];
  window.addEventListener('beforeprint', () => {
    closed = all('details:not([open])');
    for (const part of closed) part.open = true;
  });
  window.addEventListener('afterprint', () => {
    for (const part of closed) part.open = false;
  });
})();
