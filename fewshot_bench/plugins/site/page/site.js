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
  const link = (text, click, label = '') => make('button', { type: 'button', class: 'cell', click, 'aria-label': label }, text);
  const minus = (value) => `${value > 0 ? '+' : ''}${value.toFixed(2)}`.replace('-', '\u2212');

  // What is asked for stands in the address, which is a permanent link to what is shown.
  let state = new URLSearchParams();
  const asked = (name) => state.get(name) ?? data.first[name] ?? '';
  const note = (changes) => {
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) state.delete(name);
      else state.set(name, value);
    }
    history.replaceState(null, '', `#${state}`);
  };
  const ask = (changes) => {
    note(changes);
    draw(Object.keys(changes)[0]);
  };

  const whole = new Set();

  // lines: {head, key, cells: [{text, value, node}], css}; sorted by what the address names, or `first`.
  const table = (id, heads, lines, first = '', most = 150) => {
    const wanted = state.get(`${id}-sort`) ?? first;
    const [falls, name] = wanted.startsWith('-') ? [true, wanted.slice(1)] : [false, wanted];
    const index = heads.findIndex((head) => head.text === name);
    const value = (line) => (index ? line.cells[index - 1].value : line.key) ?? null;
    if (index >= 0) {
      lines = lines.map((line) => [value(line), line]).sort(([one], [two]) => {
        if (one === null || two === null) return (one === null) - (two === null);
        const order = one < two ? -1 : one > two ? 1 : 0;
        return falls ? -order : order;
      }).map(([, line]) => line);
    }
    const sort = (head, place) => {
      const next = head.text === name ? !falls : head.num;
      ask({ [`${id}-sort`]: `${next ? '-' : ''}${head.text}` });
      $(id).tHead.rows[0].cells[place].firstChild.focus();
    };
    $(id).tHead.replaceChildren(make('tr', {}, ...heads.map((head, place) => make('th', {
      scope: 'col', class: head.num ? 'num' : '', 'aria-sort': place === index ? `${falls ? 'de' : 'a'}scending` : '',
    }, make('button', { type: 'button', title: head.hint ?? '', click: () => sort(head, place) }, head.text)))));
    const shown = whole.has(id) ? lines : lines.slice(0, most);
    $(id).tBodies[0].replaceChildren(...shown.map((line) => make('tr', { class: line.css ?? '' },
      make('th', { scope: 'row' }, ...[line.head].flat()),
      ...line.cells.map((cell, place) => make('td', { class: `${heads[place + 1].num ? 'num' : ''} ${cell.css ?? ''}`.trim() },
        ...[cell.node ?? cell.text ?? ''].flat())))));
    const few = shown.length < lines.length ? `${shown.length} of ` : '';
    $(`${id}-count`).textContent = lines.length ? `${few}${lines.length.toLocaleString('en')} rows` : 'Nothing fits these choices.';
    $(`${id}-more`).hidden = shown.length === lines.length;
    const buttons = $(id).tBodies[0].querySelectorAll('button');
    buttons.forEach((button, place) => { button.tabIndex = place ? -1 : 0; });
  };

  // One stop of the tab key per table; arrows go from number to number.
  const step = (event) => {
    const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    const cell = event.target.closest('tbody td, tbody th');
    if (!cell || !(down || right)) return;
    const rows = [...cell.closest('tbody').rows];
    let [row, place] = [rows.indexOf(cell.parentElement) + down, cell.cellIndex + right];
    while (rows[row]?.cells[place] && !rows[row].cells[place].querySelector('button')) [row, place] = [row + down, place + right];
    const next = rows[row]?.cells[place]?.querySelector('button');
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  };

  // A dialog whose address is part of the link; it leaves the tables as they are.
  const facts = (pairs) => make('dl', {}, ...pairs.filter(([, value]) => value !== '' && value != null).flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]));
  const tell = (title, ...parts) => {
    $('detail-head').textContent = title;
    $('detail-body').replaceChildren(...parts);
    if (!$('detail').open) $('detail').showModal();
  };
  const web = (url) => (/^https:\/\//.test(url) ? make('a', { href: url, rel: 'noopener noreferrer' }, url) : url);

  const atlas = () => {
    const c = Object.fromEntries(Object.entries(data.numbers).map(([name, values]) => [name, values.of ? column(values) : values]));
    const places = c.value.map((_, i) => i);
    const source = (i) => data.tables[c.table[i]][0];
    const [NAME, TABLE, KIND, URL, PLACE, CITATION, COMMIT] = [0, 1, 2, 3, 4, 5, 6];
    const method = (i) => c.name[i].split('[')[0];
    const address = (i) => [c.name[i], source(i), data.tables[c.table[i]][TABLE], c.backbone[i], c.dataset[i], c.shots[i] ?? '', c.classes[i], c.under[i], c.metric[i]].join('/');
    const fits = (i, ...names) => names.every((name) => {
      if (name === 'method') return c.name[i].toLowerCase().includes(asked(name).toLowerCase());
      const own = name === 'source' ? source(i) : c[name][i];
      return [ANY, ''].includes(asked(name)) || own === null || String(own) === asked(name);
    });
    const wide = (name) => asked(name) === ANY;
    const marked = (i) => c.note[i] || c.why[i] || ['figure', 'assumed', 'computed'].includes(c.label[i]);
    const words = (i) => `${c.value[i]}${marked(i) ? '*' : ''}`;
    const setting = (i) => [c.backbone[i], c.dataset[i], c.shots[i] === null ? '' : `${c.shots[i]}-shot`, c.classes[i] === 'all' ? '' : c.classes[i], c.under[i]].filter(Boolean).join(', ');

    const show = (i) => {
      note({ number: address(i) });
      const own = data.tables[c.table[i]];
      const others = data.settings.find((each) => each.includes(i)) ?? [];
      tell(`${c.name[i]}: ${words(i)}`, facts([
        ['what', data.metrics[c.metric[i]]], ['setting', setting(i)], ['source', `${own[NAME]}, table ${own[TABLE]} (${own[KIND]})`],
        ['place', own[PLACE]], ['citation', own[CITATION]], ['address', own[URL] ? web(own[URL]) : ''], ['commit', own[COMMIT]],
        ['origin', c.label[i]], ['schedule', c.schedule[i] || 'not stated'], ['sd over seeds', c.sd[i]], ['seeds', c.seeds[i] ?? 'not stated'],
        ['conditions', c.under[i] || 'each query alone, one view'], ['note', c.note[i]], ['not comparable with ours', c.why[i]],
      ]), others.length ? make('h3', {}, 'Others print') : '', make('ul', {}, ...others.filter((j) => j !== i).map((j) => make('li', {},
        link(`${words(j)} ${source(j)}`, () => show(j)), ` schedule ${c.schedule[j] || 'not stated'}`))));
    };
    const number = (i, text = words(i)) => link(text, () => show(i), `${text}, ${c.name[i]} on ${c.dataset[i]} by ${source(i)}`);

    const numbers = () => {
      const rows = new Map();
      const found = new Set();
      for (const i of places.filter((i) => fits(i, 'metric', 'backbone', 'shots', 'classes', 'dataset', 'source', 'method'))) {
        const key = [c.name[i], c.table[i], c.backbone[i], c.shots[i], c.under[i], c.classes[i]].join('\n');
        if (!rows.has(key)) rows.set(key, new Map());
        rows.get(key).set(c.dataset[i], i);
        found.add(c.dataset[i]);
      }
      const sets = ['', ...data.sets].filter((name) => found.has(name));
      const axes = ['shots', 'backbone', 'classes'].filter(wide);
      const heads = [{ text: 'method' }, { text: 'source' }, ...axes.map((text) => ({ text, num: text === 'shots' })),
        ...sets.map((text) => ({ text: text || 'any set', num: true })), { text: 'schedule' }];
      const lines = [...rows.values()].map((own) => {
        const i = own.values().next().value;
        return {
          key: c.name[i].toLowerCase(),
          head: [c.name[i], c.under[i] ? make('span', { class: 'soft small' }, ` ${c.under[i]}`) : ''],
          cells: [{ text: source(i), value: source(i) }, ...axes.map((name) => ({ text: String(c[name][i] ?? ''), value: c[name][i] })),
            ...sets.map((name) => (own.has(name) ? { node: number(own.get(name)), value: Number(c.value[own.get(name)]) } : { text: '', value: null })),
            { text: c.schedule[i] || 'not stated', value: c.schedule[i] || null, css: c.schedule[i] ? '' : 'soft' }],
        };
      });
      table('numbers', heads, lines, sets.includes('average') ? '-average' : 'method');
    };

    const gaps = () => {
      const heads = [{ text: 'method' }, { text: 'setting' }, { text: 'gap', num: true, hint: 'points between the highest and the lowest number' }, { text: 'printed' }];
      const chosen = data.settings.filter((own) => fits(own[0], 'backbone', 'shots', 'classes', 'dataset', 'method') && own.some((i) => fits(i, 'source')));
      table('gaps', heads, chosen.map((own) => {
        const gap = Number(c.value[own.at(-1)]) - Number(c.value[own[0]]);
        return {
          head: c.name[own[0]], key: c.name[own[0]],
          cells: [{ text: setting(own[0]), value: setting(own[0]) }, { text: gap.toFixed(2), value: gap },
            { node: own.flatMap((i) => [number(i, `${words(i)} ${source(i)}`), ' ']), value: own.length }],
        };
      }), '-gap', 40);
    };

    const coverage = () => {
      const shots = [0, 1, 2, 4, 8, 16];
      const one = !wide('dataset') && asked('dataset');
      const counts = new Map();
      for (const i of places.filter((i) => c.metric[i] === 'top1' && fits(i, 'method'))) {
        if (!counts.has(method(i))) counts.set(method(i), new Map());
        if (!fits(i, 'backbone', 'classes', 'dataset', 'source') || (!one && !data.eleven.includes(c.dataset[i]))) continue;
        const own = counts.get(method(i));
        if (!own.has(c.shots[i])) own.set(c.shots[i], new Set());
        own.get(c.shots[i]).add(one ? source(i) : c.dataset[i]);
      }
      const possible = counts.size * 5 * (one ? 1 : data.eleven.length);
      let printed = 0;
      const lines = [...counts].map(([name, own]) => ({
        head: name, key: name,
        cells: shots.map((k) => {
          const count = own.get(k)?.size ?? 0;
          if (k) printed += one ? Math.min(count, 1) : count;
          const go = () => { ask({ shots: String(k), method: name }); $('numbers-part').scrollIntoView(); };
          return count ? { node: link(String(count), go, `${count}, ${name} at ${k} shots`), value: count } : { text: '–', value: 0, css: 'soft' };
        }),
      }));
      table('coverage', [{ text: 'method' }, ...shots.map((k) => ({ text: `${k} shot${k === 1 ? '' : 's'}`, num: true }))], lines, 'method', 60);
      $('coverage-text').textContent = `${one ? 'Sources that print' : 'How many of the eleven data sets are printed by anyone for'} ${wide('backbone') ? 'any backbone' : asked('backbone')}${one ? ` on ${one}` : ''}, by shots. `
        + `Of ${possible.toLocaleString('en')} settings at 1 to 16 shots, ${printed.toLocaleString('en')} are printed; ${(possible - printed).toLocaleString('en')} nobody has printed.`;
    };
    const open = () => {
      const at = state.get('number') === null ? -1 : places.find((i) => address(i) === state.get('number')) ?? -1;
      if (at >= 0) show(at);
    };
    return { draw: () => [numbers, gaps, coverage].forEach((part) => part()), open, closed: { number: null } };
  };

  const results = () => {
    let packed = null;
    // Records, texts to copy and cards are read when they are first asked for.
    const details = () => (packed ??= new Response(new Blob([Uint8Array.from(atob($('details').textContent), (c) => c.charCodeAt(0))]).stream()
      .pipeThrough(new DecompressionStream('gzip'))).json());
    const fields = (row) => Object.fromEntries(data.fields.map((name, place) => [name, row[place]]));
    const boards = data.boards.map((board) => ({ ...board, rows: board.rows.map(fields) }));
    let board = boards[0];

    const choose = (changed) => {
      const same = (each) => Object.entries(each.axes).filter(([name, value]) => asked(name) === value).length;
      const able = boards.filter((each) => !(changed in each.axes) || each.axes[changed] === asked(changed));
      board = (able.length ? able : boards).reduce((best, each) => (same(each) > same(best) ? each : best));
      for (const [name, value] of Object.entries(board.axes)) if (state.has(name)) state.set(name, value);
      Object.assign(data.first, board.axes);
    };

    const show = async (row, set = 0) => {
      note({ row: row.method, set: board.sets[set] });
      const every = await details();
      const own = every.boards[boards.indexOf(board)].rows[board.rows.indexOf(row)];
      const records = (own.records[0] ?? []).map((_, place) => own.records.map((values) => values[place])).filter(([at]) => !set || at === set);
      const heads = ['data set', 'seed', data.metric, 'record', 'split', 'logits', 'environment', 'level'];
      const used = new Set(records.map((record) => record[6]));
      const lines = records.map(([at, ...rest]) => make('tr', {}, make('th', { scope: 'row' }, board.sets[at]),
        ...rest.map((value, place) => make('td', { class: place === 1 ? 'num' : '' }, place === 5 ? `#${value + 1}` : String(value)))));
      tell(`${row.method} ${set ? `on ${board.sets[set]}` : ''}`, facts([
        [data.metric, row.cells[set]?.[0]], ['subject', board.subject], ['source', data.sources[row.source]], ['level', board.axes.level],
        ['why no higher', own.reasons], ['disagrees with', row.disagrees],
        ['schedule', row.schedule], ...data.costs.map(([name], place) => [name, row.costs[place]?.[1]]),
      ]), records.length ? make('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Records' }, make('table', {}, make('caption', {}, 'Records'),
        make('thead', {}, make('tr', {}, ...heads.map((text) => make('th', { scope: 'col' }, make('span', { class: 'plain' }, text))))), make('tbody', {}, ...lines)))
        : make('p', {}, 'Computed from other numbers: its records stand under base and new classes.'),
      ...[...used].map((place) => make('p', { class: 'small' }, `Environment #${place + 1}: ${every.environments[place]}`)));
      $('signature').textContent = own.signature;
      $('command').textContent = own.commands;
    };

    const leaders = () => {
      const sets = asked('columns') === 'sets';
      const heads = [{ text: 'method' }, { text: 'group', num: true, hint: board.why || 'methods of a group are not told apart' }, { text: 'average', num: true, hint: board.subject },
        ...(sets ? board.sets.slice(1).map((text) => ({ text, num: true })) : [...data.costs.map(([text, hint]) => ({ text, hint, num: true })), { text: 'schedule' }, { text: 'source' }, { text: 'others' }])];
      const value = (row, set) => {
        const cell = row.cells[set];
        return cell ? { node: link(cell[0], () => show(row, set), `${cell[0]}, ${row.method} on ${board.sets[set]}`), value: parseFloat(cell[0]) } : { text: set ? '—' : row.why, value: null, css: 'soft' };
      };
      const lines = board.rows.filter((row) => row.method.toLowerCase().includes(asked('method').toLowerCase())
        && [ANY, ''].concat(row.schedule).includes(asked('schedule')) && [ANY, ''].concat(data.sources[row.source]).includes(asked('source'))).map((row) => ({
        key: row.method.toLowerCase(),
        head: [make('span', { class: 'mark', 'aria-hidden': 'true', 'data-color': row.color }, row.mark), row.method, row.paper ? make('span', { class: 'paper' }, row.paper[1] ? make('a', { href: row.paper[1], rel: 'noopener noreferrer' }, row.paper[0]) : row.paper[0]) : ''],
        css: row.group === 1 ? 'best' : '',
        cells: [{ text: row.group ? String(row.group) : '—', value: row.group, css: row.group ? '' : 'soft' }, value(row, 0),
          ...(sets ? board.sets.slice(1).map((_, at) => value(row, at + 1)) : [...row.costs.map((cost) => (cost ? { text: cost[1], value: cost[0] } : { text: '—', value: null, css: 'soft' })),
            { text: row.schedule || 'not stated', value: row.schedule || null }, { text: data.sources[row.source], value: data.sources[row.source] },
            { text: row.disagrees ? `disagrees: ${row.disagrees}` : row.agrees ? `agrees: ${row.agrees}` : '', value: row.disagrees || row.agrees || null, css: row.disagrees ? 'failed' : '' }])],
      }));
      table('leaders', heads, lines, '-average');
      for (const mark of document.querySelectorAll('[data-color]')) mark.style.color = mark.dataset.color;
      $('leaders-subject').textContent = `${board.subject[0].toUpperCase()}${board.subject.slice(1)}; ${board.axes.level}`;
      $('board-text').textContent = `${board.why ? `No groups: ${board.why}. ` : ''}Conditions: ${board.signature}.`;
    };

    const compared = async () => {
      const names = board.rows.filter((row) => row.cells[0]).map((row) => row.method);
      for (const [place, id] of ['one', 'two'].entries()) {
        if (!names.includes(asked(id))) data.first[id] = names[Math.min(place, names.length - 1)];
        if (state.has(id) && !names.includes(state.get(id))) state.delete(id);
        $(`f-${id}`).replaceChildren(...names.map((text) => make('option', {}, text)));
        $(`f-${id}`).value = asked(id);
      }
      const [one, two] = ['one', 'two'].map((id) => board.rows.find((row) => row.method === asked(id)));
      if (!one || !two) return;
      const lines = board.sets.map((name, at) => {
        const [mine, theirs] = [one, two].map((row) => row.cells[at]);
        const gap = mine && theirs ? parseFloat(mine[0]) - parseFloat(theirs[0]) : null;
        return { head: name, key: name, cells: [...[mine, theirs].map((cell) => ({ text: cell?.[0] ?? '—', value: cell ? parseFloat(cell[0]) : null })), { text: gap === null ? '—' : minus(gap), value: gap }] };
      });
      lines.push(...data.costs.map(([name], at) => ({ head: name, key: name, cells: [...[one, two].map((row) => ({ text: row.costs[at]?.[1] ?? '—', value: row.costs[at]?.[0] })), { text: '', value: null }] })));
      table('compared', [{ text: 'what' }, { text: one.method, num: true }, { text: two.method === one.method ? `${two.method} ` : two.method, num: true }, { text: 'difference', num: true }], lines, 'as listed');
      const now = board;
      const tests = (await details()).boards[boards.indexOf(now)].pairs;
      const [a, b] = [one, two].map((row) => now.rows.indexOf(row));
      const [sign, found] = tests[`${a},${b}`] ? [1, tests[`${a},${b}`]] : [-1, tests[`${b},${a}`]];
      if (now === board) $('compared-test').textContent = found ? `Paired over the same images: ${minus(sign * found[0])} points, p ${found[1]} after Holm; data sets won / tied / lost by ${sign > 0 ? one.method : two.method}: ${found[2]}.` : `No paired test of these two: ${now.why || 'their logits are not there or of other splits'}.`;
    };

    const fill = async () => {
      const now = board;
      const own = (await details()).boards[boards.indexOf(now)];
      if (now !== board) return;
      $('latex').textContent = own.latex;
      $('bibtex').textContent = (await details()).bibtex[own.bibtex];
      $('card').innerHTML = own.card;
    };
    for (const part of document.querySelectorAll('details[data-fill]')) part.addEventListener('toggle', () => part.open && fill());

    const conflicts = () => table('conflicts', [{ text: 'method' }, { text: 'cell' }, { text: 'values' }, { text: 'gap', num: true }],
      data.conflicts.map(([head, cell, values, gap]) => ({ head, key: head, cells: [{ text: cell, value: cell }, { text: values, value: values }, { text: gap.toFixed(2), value: gap }] })), '-gap', 40);
    const open = () => {
      const row = board.rows.find((each) => each.method === state.get('row'));
      if (row) show(row, Math.max(board.sets.indexOf(state.get('set')), 0));
    };
    const draw = (changed) => {
      choose(changed);
      leaders();
      compared();
      conflicts();
      if (document.querySelector('details[data-fill][open]')) fill();
    };
    return { draw, open, closed: { row: null, set: null } };
  };

  const page = data.numbers ? atlas() : results();
  function draw(changed) {
    page.draw(changed);
    for (const control of document.querySelectorAll('[data-ask]')) if (control.value !== asked(control.dataset.ask)) control.value = asked(control.dataset.ask);
  }
  const follow = () => {
    if (location.hash && !location.hash.includes('=')) return;
    state = new URLSearchParams(location.hash.slice(1));
    draw();
    page.open();
  };
  for (const control of document.querySelectorAll('[data-ask]')) control.addEventListener('input', () => ask({ [control.dataset.ask]: control.value }));
  for (const button of document.querySelectorAll('[data-more]')) button.addEventListener('click', () => { whole.add(button.dataset.more); draw(); });
  for (const button of document.querySelectorAll('[data-close]')) button.addEventListener('click', () => $('detail').close());
  $('detail').addEventListener('close', () => note(page.closed));
  document.addEventListener('keydown', step);
  window.addEventListener('hashchange', follow);
  follow();
})();
