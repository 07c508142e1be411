(() => {
  'use strict';

  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($('data').textContent);
  const ANY = '*';

  // Texts of records are foreign: they become text nodes and attributes, never markup.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === 'function') element.addEventListener(name, value);
      else if (value !== '') element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== ''));
    return element;
  };
  const column = ({ of, at }) => at.map((place) => of[place]);
  const link = (text, click, label) => make('button', { type: 'button', class: 'cell', click, 'aria-label': label }, text);
  const web = (url, text = url) => (url.startsWith('https://') ? make('a', { href: url, rel: 'noopener noreferrer' }, text) : text);

  // What is asked for stands in the address, which is a permanent link to what is shown.
  let state = new URLSearchParams();
  const asked = (name) => state.get(name) ?? data.first[name] ?? '';
  const fits = (name, value) => value === null || [ANY, '', String(value)].includes(asked(name));
  const isNamed = (method) => method.toLowerCase().includes(asked('method').toLowerCase());
  // how: `pushState` for what the back button closes.
  const note = (changes, how = 'replaceState') => {
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) state.delete(name);
      else state.set(name, value);
    }
    history[how](how === 'pushState' || history.state, '', `#${state}`);
  };
  const ask = (changes, how) => {
    note(changes, how);
    draw(Object.keys(changes)[0]);
  };

  const head = (text, num = false, hint = '') => ({ text, num, hint });
  // content: a text or nodes. value: to sort by; null stands last.
  const cell = (content, value = content, css = '') => ({ content: [content].flat(), value, css });
  const dash = cell('—', null, 'soft');
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const whole = new Set();

  // lines: {cells, css}, the first cell the heading; sorted by what the address names, or `first`.
  const table = (id, heads, lines, first, most = 150) => {
    const wanted = state.get(`${id}-sort`) ?? first;
    const [falls, name] = wanted.startsWith('-') ? [true, wanted.slice(1)] : [false, wanted];
    const index = heads.findIndex(({ text }) => text === name);
    const order = (one, two) => {
      if (one === null || two === null) return (one === null) - (two === null);
      return ((one > two) - (one < two)) * (falls ? -1 : 1);
    };
    if (index >= 0) lines.sort((one, two) => order(one.cells[index].value, two.cells[index].value));
    const sort = ({ text, num }, place) => {
      ask({ [`${id}-sort`]: `${(text === name ? !falls : num) ? '-' : ''}${text}` });
      $(id).tHead.rows[0].cells[place].firstChild.focus();
    };
    $(id).tHead.replaceChildren(make('tr', {}, ...heads.map((own, place) => make('th', {
      scope: 'col', class: own.num ? 'num' : '', 'aria-sort': place === index ? `${falls ? 'de' : 'a'}scending` : '',
    }, make('button', { type: 'button', title: own.hint, click: () => sort(own, place) }, own.text)))));
    const shown = whole.has(id) ? lines : lines.slice(0, most);
    $(id).tBodies[0].replaceChildren(...shown.map(({ cells: [title, ...cells], css = '' }) => make('tr', { class: css },
      make('th', { scope: 'row' }, ...title.content),
      ...cells.map((own, place) => make('td', { class: `${heads[place + 1].num ? 'num' : ''} ${own.css}`.trim() }, ...own.content)))));
    const few = shown.length < lines.length ? `${shown.length} of ` : '';
    $(`${id}-count`).textContent = lines.length ? `${few}${lines.length.toLocaleString('en')} rows` : 'Nothing fits these choices.';
    $(`${id}-more`).hidden = shown.length === lines.length;
    const buttons = $(id).tBodies[0].querySelectorAll('button');
    buttons.forEach((button, place) => { button.tabIndex = place ? -1 : 0; });
  };

  // One stop of the tab key per table; arrows go from number to number.
  const step = (event) => {
    const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    const from = event.target.closest('tbody td, tbody th');
    if (!from || !(down || right)) return;
    const rows = [...from.closest('tbody').rows];
    let [row, place] = [rows.indexOf(from.parentElement) + down, from.cellIndex + right];
    while (rows[row]?.cells[place] && !rows[row].cells[place].querySelector('button')) [row, place] = [row + down, place + right];
    const next = rows[row]?.cells[place]?.querySelector('button');
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  };

  // A dialog whose address is part of the link; it leaves the tables as they are, and the back button closes it.
  const deeper = () => ($('detail').open ? 'replaceState' : 'pushState');
  const facts = (pairs) => make('dl', {}, ...pairs.filter(([, value]) => value !== '' && value != null).flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]));
  const tell = (title, ...parts) => {
    $('detail-head').textContent = title;
    $('detail-body').replaceChildren(...parts);
    if (!$('detail').open) $('detail').showModal();
  };

  const atlas = () => {
    const c = Object.fromEntries(Object.entries(data.numbers).map(([name, values]) => [name, values.of ? column(values) : values]));
    c.source = c.table.map((place) => data.tables[place].source);
    const places = [...c.value.keys()];
    const address = (i) => [c.name[i], c.source[i], data.tables[c.table[i]].table, c.backbone[i], c.dataset[i], c.shots[i] ?? '', c.classes[i], c.under[i], c.metric[i]].join('/');
    const allFit = (i, ...names) => isNamed(c.name[i]) && names.every((name) => fits(name, c[name][i]));
    const isMarked = (i) => c.note[i] || c.why[i] || ['figure', 'assumed', 'computed'].includes(c.label[i]);
    const words = (i) => `${c.value[i]}${isMarked(i) ? '*' : ''}`;
    const setting = (i) => [c.backbone[i], c.dataset[i], c.shots[i] === null ? '' : `${c.shots[i]}-shot`, c.classes[i] === 'all' ? '' : c.classes[i], c.under[i]].filter(Boolean).join(', ');
    const schedule = (i) => c.schedule[i] || 'not stated';

    const show = (i, how = deeper()) => {
      note({ number: address(i) }, how);
      const { source, table: name, url, place, citation, commit } = data.tables[c.table[i]];
      const [, ...others] = data.settings.find((each) => each.includes(i)) ?? [];
      tell(`${c.name[i]}: ${words(i)}`, facts([
        ['what', data.metrics[c.metric[i]]], ['setting', setting(i)], ['source', `${source}, table ${name} (${c.kind[i]})`],
        ['place', place], ['citation', citation], ['address', web(url)], ['commit', commit],
        ['origin', c.label[i]], ['schedule', schedule(i)], ['sd over seeds', c.sd[i]], ['seeds', c.seeds[i] ?? 'not stated'],
        ['conditions', c.under[i] || 'each query alone, one view'], ['note', c.note[i]], ['not comparable because', c.why[i]],
      ]), others.length ? make('h3', {}, 'Others print') : '', make('ul', {}, ...others.filter((j) => j !== i).map((j) => make('li', {},
        link(`${words(j)} ${c.source[j]}`, () => show(j), ''), ` schedule ${schedule(j)}`))));
    };
    const number = (i, text = words(i)) => link(text, () => show(i), `${text}, ${c.name[i]} on ${c.dataset[i]} by ${c.source[i]}`);

    const numbers = () => {
      const rows = new Map();
      const found = new Set();
      for (const i of places.filter((each) => allFit(each, 'metric', 'backbone', 'shots', 'classes', 'dataset', 'source'))) {
        const key = [c.name[i], c.table[i], c.backbone[i], c.shots[i], c.under[i], c.classes[i]].join('\n');
        if (!rows.has(key)) rows.set(key, new Map());
        rows.get(key).set(c.dataset[i], i);
        found.add(c.dataset[i]);
      }
      const told = ['backbone', 'shots', 'classes', 'dataset', 'source'].filter((name) => asked(name) !== ANY);
      $('numbers-subject').textContent = [capital(data.metrics[asked('metric')] ?? ''), ...told.map((name) => `${name} ${asked(name)}`)].join('; ');
      const [first, ...sets] = ['', ...data.sets].filter((name) => found.has(name));
      const axes = ['shots', 'backbone', 'classes'].filter((name) => asked(name) === ANY);
      const heads = [head('method'), head('source'), ...axes.map((name) => head(name, name === 'shots')), head(first || 'any set', true), head('schedule'), ...sets.map((name) => head(name, true))];
      const result = (own, name) => (own.has(name) ? cell(number(own.get(name)), Number(c.value[own.get(name)])) : cell('', null));
      const lines = [...rows.values()].map((own) => {
        const [i] = own.values();
        return { cells: [
          cell([c.name[i], c.under[i] ? make('span', { class: 'soft small' }, ` ${c.under[i]}`) : ''], c.name[i].toLowerCase()),
          cell(make('span', { title: data.tables[c.table[i]].citation }, c.source[i]), c.source[i]),
          ...axes.map((name) => cell(c[name][i] ?? '', c[name][i])),
          result(own, first),
          cell(schedule(i), c.schedule[i] || null, `schedule small${c.schedule[i] ? '' : ' soft'}`),
          ...sets.map((name) => result(own, name)),
        ] };
      });
      table('numbers', heads, lines, first === 'average' ? '-average' : 'method');
    };

    const gaps = () => {
      const heads = [head('method'), head('setting'), head('gap', true, 'points between the highest and the lowest number'), head('printed')];
      const chosen = data.settings.filter(([, ...own]) => allFit(own[0], 'backbone', 'shots', 'classes', 'dataset') && own.some((i) => fits('source', c.source[i])));
      table('gaps', heads, chosen.map(([gap, ...own]) => {
        const printed = own.flatMap((i) => [number(i, `${words(i)} ${c.source[i]}`), ' ']);
        return { cells: [cell(c.name[own[0]]), cell(setting(own[0])), cell(gap, Number(gap)), cell(printed, own.length)] };
      }), '-gap', 40);
    };

    const coverage = () => {
      const shots = [0, 1, 2, 4, 8, 16];
      const one = asked('dataset') !== ANY && asked('dataset');
      const methods = new Map();
      for (const i of places.filter((each) => c.metric[each] === 'top1' && isNamed(c.name[each]))) {
        const [method] = c.name[i].split('[');
        if (!methods.has(method)) methods.set(method, new Map(shots.map((k) => [k, new Set()])));
        if (allFit(i, 'backbone', 'classes', 'dataset', 'source') && (one || data.eleven.includes(c.dataset[i]))) methods.get(method).get(c.shots[i])?.add(one ? c.source[i] : c.dataset[i]);
      }
      const possible = methods.size * 5 * (one ? 1 : data.eleven.length);
      let printed = 0;
      const lines = [...methods].map(([method, own]) => ({ cells: [cell(method), ...shots.map((k) => {
        const count = own.get(k).size;
        if (k) printed += one ? Math.min(count, 1) : count;
        const go = () => { ask({ shots: String(k), method, metric: null }, 'pushState'); $('numbers-part').scrollIntoView(); };
        return count ? cell(link(count, go, `${count}, ${method} at ${k} shots`), count) : cell('–', 0, 'soft');
      })] }));
      table('coverage', [head('method'), ...shots.map((k) => head(`${k} shot${k === 1 ? '' : 's'}`, true))], lines, 'method', 60);
      const [by, nobody] = asked('source') === ANY ? ['anyone', 'nobody has printed'] : [asked('source'), 'it does not print'];
      $('coverage-text').textContent = `${one ? 'Sources that print' : `How many of the eleven data sets are printed by ${by} for`} ${asked('backbone') === ANY ? 'any backbone' : asked('backbone')}${one ? ` on ${one}` : ''}, by shots. `
        + `Of ${possible.toLocaleString('en')} settings at 1 to 16 shots, ${printed.toLocaleString('en')} are printed; ${(possible - printed).toLocaleString('en')} ${nobody}.`;
    };
    const open = () => {
      const at = state.has('number') ? places.find((i) => address(i) === state.get('number')) : undefined;
      if (at !== undefined) show(at, 'replaceState');
      return at !== undefined;
    };
    return { draw: () => [numbers, gaps, coverage].forEach((part) => part()), open, closed: { number: null } };
  };

  const page = atlas();
  const controls = [...document.querySelectorAll('[data-ask]')];
  const choices = document.querySelector('.choices');
  const chosen = make('summary');
  if (matchMedia('(max-width:640px)').matches) {
    // They would fill the first screen.
    const folded = make('details', {}, chosen);
    choices.before(folded);
    folded.append(choices);
  }
  // What the tables show, without the dialog before them.
  const beneath = () => {
    const own = new URLSearchParams(state);
    for (const name of Object.keys(page.closed)) own.delete(name);
    return `#${own}`;
  };
  let drawn = '';
  function draw(changed) {
    page.draw(changed);
    drawn = beneath();
    for (const control of controls) if (control.value !== asked(control.dataset.ask)) control.value = asked(control.dataset.ask);
    const told = controls.filter((control) => choices.contains(control) && ![ANY, ''].includes(control.value));
    chosen.textContent = `Filters: ${told.map(({ dataset, value }) => `${dataset.ask} ${value}`).join(', ')}`;
  }
  const follow = () => {
    const asks = location.hash.slice(1);
    const part = asks.includes('=') ? null : document.getElementById(asks);
    if (!part) state = new URLSearchParams(asks);
    if (drawn !== beneath()) draw();
    // A link to a part of the page leaves in the address what is shown.
    if (part && `${state}`) note({});
    part?.scrollIntoView();
    if (!page.open()) $('detail').close();
  };
  for (const control of controls) control.addEventListener('input', () => ask({ [control.dataset.ask]: control.value }));
  for (const button of document.querySelectorAll('[data-more]')) button.addEventListener('click', () => { whole.add(button.dataset.more); draw(); });
  for (const button of document.querySelectorAll('[data-close]')) button.addEventListener('click', () => $('detail').close());
  $('detail').addEventListener('close', () => {
    if (!Object.keys(page.closed).some((name) => state.has(name))) return;
    if (history.state) history.back();
    else note(page.closed);
  });
  document.addEventListener('keydown', step);
  window.addEventListener('hashchange', follow);
  follow();
})();
