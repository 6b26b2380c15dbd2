'use strict';
// Everything here is drawn by textContent and the like: what clients have sent never becomes markup.
(() => {
  const POLL = 1000, PATIENCE = 5000, RATE_OVER = 5, KEEP = 600;
  const HARMLESS = new Set(['closed-empty', 'drained', 'tls-checked']);
  const WORDS = {
    'untrusted': 'the peer is not in haproxy_trusted_networks',
    'absent': 'no PROXY header came first',
    'silent': 'nothing was sent before the deadline',
    'timeout': 'the header was not complete before the deadline',
    'shed': 'dropped to make room: too many headers were awaited, or files ran out',
    'closed-empty': 'closed without a byte: a look at the port, nothing to worry about',
    'closed-partial': 'closed inside the header',
    'overload': 'the queue was full',
    'drained': 'the daemon was told to end before the header came',
    'lost-in-ring': 'a ring failed before the connection had reached its pool',
    'listener-pending-limit': 'too many headers were awaited on the listener',
    'peer-pending-limit': 'too many headers of this peer were awaited',
    'version-refused': 'this version of the header is off on the listener',
    'unknown-refused': 'the header names no addresses, and the listener wants some',
    'unspec-refused': 'the header names no IP address',
    'dgram-refused': 'the header speaks of a datagram',
    'checksum-missing': 'the listener wants a checksum, and none came',
    'bad-source': 'the source is no address that a client can have',
    'bad-authority': 'the server name in the header is no host name',
    'alpn-mismatch': 'the protocol in the header is another one than the listener has',
    'second-header': 'a second header followed the first: two balancers add one each',
    'client-banned': 'the client is in client_banned_networks',
    'client-connection-limit': 'the client has too many connections at a time',
    'client-rate-limit': 'the client connects too often',
    'endpoint-refused': 'the client came through a private endpoint that is not allowed',
    'endpoint-missing': 'only some private endpoints are allowed, and the header names none',
    'bad-version': 'the header has a version that does not exist',
    'bad-command': 'the header says neither LOCAL nor PROXY',
    'bad-family': 'the header names an address family that does not exist',
    'bad-transport': 'the header names a transport that does not exist',
    'header-too-long': 'the header is longer than header_limit',
    'address-truncated': 'the header is too short for its addresses',
    'tlv-truncated': 'a TLV of the header runs past its end',
    'bad-tlv': 'a TLV of the header has an impossible length',
    'duplicate-tlv': 'the header has a TLV twice that may be there once',
    'bad-checksum': 'the checksum of the header is wrong: its bytes were changed on the way',
    'line-too-long': 'the header of version 1 has no end of its line',
    'bad-line-ending': 'the header of version 1 ends its line with CR or LF alone',
    'bad-spacing': 'the header of version 1 has too few or too many fields, or not one space between them',
    'bad-address': 'the header of version 1 names no IP address',
    'bad-port': 'the header of version 1 names no port',
    'family-mismatch': 'the header of version 1 names an address of another family than it says',
    'tls-failed': 'the TLS handshake failed, or was not over in time',
    'tls-checked': "the balancer's check of the TLS port, nothing to worry about",
  };
  /** What can be done where the bytes tell no more. */
  const REMEDIES = {
    'untrusted': 'if it is a balancer of yours, add it to haproxy_trusted_networks; else close the port to it',
    'absent': 'switch the PROXY protocol on at the balancer, or send these clients to a listener without haproxy = yes',
    'silent': 'a balancer sends its header at once: look for one that does not, or a scanner',
    'timeout': 'look for packet loss between the balancer and here',
    'shed': 'raise pending_limit or LimitNOFILE=, or find the peer that opens so many',
    'overload': 'more workers, or a longer queue',
    'listener-pending-limit': 'raise pending_listener_limit, or find the peer that opens so many',
    'peer-pending-limit': 'raise pending_peer_limit, or see what this peer does',
    'version-refused': 'let the balancer send the other version, or allow this one by haproxy_versions',
    'unknown-refused': 'haproxy_unknown = peer serves them',
    'unspec-refused': 'haproxy_unspec = peer serves them',
    'checksum-missing': 'switch checksums on at the balancer (HAProxy: proxy-v2-options crc32c)',
    'second-header': 'switch the PROXY protocol off at one of the two balancers',
    'client-banned': 'vestibule ctl bans shows those of operators',
    'client-connection-limit': 'client_exempt_networks for those that may, or raise client_connection_limit',
    'client-rate-limit': 'client_exempt_networks for those that may, or raise client_rate_limit',
    'endpoint-refused': 'add it to client_allowed_endpoints if it may connect',
    'header-too-long': 'raise header_limit, or let the balancer send fewer TLVs',
    'tls-failed': 'an old version, a certificate that the client does not know, or no TLS at all: the words above tell',
  };
  const remedy = (one) => one.advice ?? REMEDIES[one.reason];
  /** Why a TLS handshake has failed: only the log's words tell. */
  const cause = (one) => one.reason === 'tls-failed' ? one.text.replace(/^.*?\): /, '') : null;
  const $ = (query, root = document) => root.querySelector(query);
  const SVG = 'http://www.w3.org/2000/svg';

  function el(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  function svg(name, attributes = {}, ...children) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  /** Sets a text only where it differs: a selection in it survives, and screen readers are not told twice. */
  function put(node, text) {
    if (node.textContent !== String(text)) node.textContent = text;
  }
  /** Keeps one child an item, by key, in order: focus and what is unfolded stay. */
  function keyed(parent, items, key, make, update) {
    const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
    let place = parent.firstElementChild;
    for (const item of items) {
      const name = key(item);
      let child = known.get(name);
      known.delete(name);
      if (!child) { child = make(item); child.dataset.key = name; }
      if (child === place) place = place.nextElementSibling; else parent.insertBefore(child, place);
      update(child, item);
    }
    for (const child of known.values()) child.remove();
  }

  // ---- numbers ------------------------------------------------------------------------------------------------------
  const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
  const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 2 });
  const number = (value) => (value < 1e7 ? whole : short).format(value);
  function rate(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return '–';
    if (value === 0) return '0';
    return value < 10 ? value.toFixed(1) : number(value);
  }
  function bytes(value) {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
    let unit = 0;
    while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
    return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
  }
  function span(seconds) {
    const s = Math.floor(seconds);
    if (s >= 86400) return `${Math.floor(s / 86400)}d ${Math.floor(s / 3600) % 24}h`;
    if (s >= 3600) return `${Math.floor(s / 3600)}h ${Math.floor(s / 60) % 60}m`;
    if (s >= 60) return `${Math.floor(s / 60)}m ${s % 60}s`;
    return `${s}s`;
  }
  function micros(value) {
    if (value < 1000) return `${Math.round(value)} µs`;
    if (value < 1e6) return `${value < 1e4 ? (value / 1e3).toFixed(1) : Math.round(value / 1e3)} ms`;
    return `${value < 1e7 ? (value / 1e6).toFixed(1) : Math.round(value / 1e6)} s`;
  }
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const sum = (values) => values.reduce((all, one) => all + one, 0);

  // ---- what was ------------------------------------------------------------------------------------------------------
  // Samples by time, oldest first; the daemon's own history stands before what this page has seen.
  let past = { times: [], series: new Map() };
  let recent = [];
  let generation = null;

  function remember(stats) {
    const values = valuesOf(stats);
    recent.push({ now: stats.now, values });
    while (recent.length > 2 && recent[0].now < stats.now - 2 * RATE_OVER) recent.shift();
    const last = past.times.at(-1);
    if (last === undefined || stats.now - last >= 2) {
      past.times.push(stats.now);
      for (const [name, value] of values) {
        if (!past.series.has(name)) past.series.set(name, new Array(past.times.length - 1).fill(null));
      }
      for (const [name, line] of past.series) line.push(values.get(name) ?? null);
      while (past.times[0] < stats.now - KEEP) {
        past.times.shift();
        for (const line of past.series.values()) line.shift();
      }
    }
  }
  function valuesOf(stats) {
    const values = new Map();
    const servers = stats.backends.flatMap((backend) => backend.servers.map((server) => [backend, server]));
    values.set('all accepted', sum(stats.listeners.map((one) => one.accepted)));
    values.set('all served', sum(stats.listeners.map((one) => one.served)));
    values.set('all refused', sum(stats.listeners.map((one) => one.refused)));
    values.set('all sessions', sum(servers.map(([, server]) => server.sessions)));
    for (const one of stats.listeners) {
      values.set(`listener ${one.service}/${one.listener}`, one.accepted);
      for (const [reason, count] of Object.entries(one.reasons)) {
        values.set(`reason ${reason}`, (values.get(`reason ${reason}`) ?? 0) + count);
      }
    }
    for (const [backend, server] of servers) {
      values.set(`server ${backend.backend}/${server.server}`, server.sessions);
      values.set(`total ${backend.backend}/${server.server}`, server['sessions-total']);
    }
    stats.rings.forEach((ring, index) => {
      values.set(`ring ${index}`, ring.accepted);
      values.set(`turns ${index}`, ring.turns);
    });
    if (stats.process.cpu !== null) values.set('cpu', stats.process.cpu);
    return values;
  }
  /** A second's growth of a counter of late; null: not known yet. */
  function growth(name) {
    const last = recent.at(-1);
    const first = recent.find((sample) => sample.now >= last.now - RATE_OVER - 0.5 && sample.values.has(name));
    if (!first || first === last) return null;
    return Math.max(0, (last.values.get(name) - first.values.get(name)) / (last.now - first.now));
  }
  function line(name) {
    const values = past.series.get(name) ?? [];
    return values.map((value, index) => [past.times[index], value]).filter(([, value]) => value !== null);
  }
  function rates(name) {
    const points = line(name);
    return points.slice(1).map(([time, value], index) => {
      const [before, old] = points[index];
      return [time, Math.max(0, (value - old) / Math.max(time - before, 0.1))];
    });
  }
  async function load(path) {
    const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
    if (!response.ok) throw new Error(`${response.status} for ${path}`);
    return response.json();
  }
  async function recall() {
    past = { times: [], series: new Map() };
    recent = [];
    try {
      const { times, series } = await load('/history.json');
      past = { times, series: new Map(Object.entries(series)) };
    } catch { /* the lines begin now */ }
  }

  // ---- small pictures ------------------------------------------------------------------------------------------------
  function spark(points, label, kind = '') {
    const node = svg('svg', { class: `spark ${kind}`, viewBox: '0 0 100 30', preserveAspectRatio: 'none', role: 'img' },
      svg('path', { class: 'area' }), svg('path', { class: 'line' }));
    drawSpark(node, points, label);
    return node;
  }
  function drawSpark(node, points, label) {
    const most = Math.max(1e-9, ...points.map(([, value]) => value));
    const end = points.at(-1)?.[0] ?? 0, begin = end - KEEP;
    const at = points.map(([time, value]) =>
      `${(Math.max(0, (time - begin) / KEEP) * 100).toFixed(2)},${(28.5 - value / most * 26).toFixed(2)}`);
    const first = at[0]?.split(',')[0] ?? '0';
    $('.line', node).setAttribute('d', at.length > 1 ? `M${at.join('L')}` : '');
    $('.area', node).setAttribute('d', at.length > 1 ? `M${first},30L${at.join('L')}L100,30Z` : '');
    node.setAttribute('aria-label', `${label}: the last ten minutes, at most ${rate(most < 1e-8 ? 0 : most)}`);
  }
  function bar(share, kind = '') {
    const fill = el('i');
    fill.style.width = `${Math.min(100, Math.max(0, share * 100))}%`;
    return el('span', { class: `bar ${kind}`, 'aria-hidden': 'true' }, fill);
  }

  // ---- tables --------------------------------------------------------------------------------------------------------
  // A column: [title, class, what a row shows of it, explanation, width where tables stand below each other].
  function table(host, caption, columns, items, key, kind = () => '') {
    let node = $('table', host);
    if (!node) {
      const titles = columns.map(([title, style, , hint, width]) => {
        const head = el('th', { scope: 'col', class: style, title: hint }, title);
        if (width) head.style.setProperty('--width', `${width}em`);
        return head;
      });
      node = el('table', { 'aria-label': caption, class: columns.some((column) => column[4]) ? 'aligned' : null }, el('thead', {}, el('tr', {}, ...titles)), el('tbody'));
      host.replaceChildren(el('div', { class: 'scroll' }, node));
    }
    const make = () => el('tr', {}, ...columns.map(([, style], index) =>
      index === 0 ? el('th', { scope: 'row', class: style }) : el('td', { class: style })));
    keyed($('tbody', node), items, key, make, (row, item) => {
      const state = kind(item);
      if (row.className !== state) row.className = state;
      columns.forEach(([, , show], index) => fill(row.children[index], show(item)));
    });
  }
  function fill(cell, shown) {
    if (typeof shown === 'string') {
      if (cell.childElementCount > 0 || cell.textContent !== shown) cell.textContent = shown;
    } else if (shown?.spark) {
      const old = $('svg', cell);
      if (old) drawSpark(old, shown.spark, shown.label); else cell.replaceChildren(spark(shown.spark, shown.label, shown.kind));
    } else {
      const parts = [shown].flat().filter((part) => part !== null);
      const next = el('span', {}, ...parts);
      if (cell.firstElementChild?.outerHTML !== next.outerHTML) cell.replaceChildren(next);
    }
  }
  const count = (value, hot = false) => value === 0 ? el('span', { class: 'zero' }, '0')
    : el('span', { class: hot ? 'hot' : null, title: String(value) }, number(value));

  // ---- sections ------------------------------------------------------------------------------------------------------
  function drawTop(stats) {
    const ready = $('#ready');
    ready.className = `state ${stats.ready ? 'up' : 'drain'}`;
    put(ready, stats.ready ? 'ready' : `not ready: ${stats['why-not-ready']}`);
    const cpu = growth('cpu');
    const facts = [
      ['host', location.host], ['version', stats.version.split(' ')[0]], ['up', span(stats.now - stats.started)],
      ['CPU', cpu === null ? '–' : `${(cpu * 100).toFixed(cpu < 0.1 ? 1 : 0)} %`],
      ['memory', stats.process.resident === null ? '–' : bytes(stats.process.resident)],
      ['files', stats.process.files === null ? '–' : `${number(stats.process.files)} of ${number(stats.process['files-max'])}`],
    ];
    put($('#build'), `Vestibule ${stats.version}, process ${stats.pid}${stats.kernel ? `, Linux ${stats.kernel}` : ''}.`);
    keyed($('#facts'), facts, ([name]) => name, ([name]) => el('div', { class: ['host', 'files'].includes(name) ? 'w2' : null }, el('dt', {}, name), el('dd')),
      (node, [, value]) => put($('dd', node), value));
    document.title = `${stats.ready ? '' : '(not ready) '}Vestibule ${location.host}`;
  }

  function drawTiles(stats) {
    const servers = stats.backends.flatMap((backend) => backend.servers);
    const values = recent.at(-1).values;
    const limits = servers.map((server) => server['sessions-limit']);
    const limit = limits.length && limits.every((one) => one !== null) ? ` of ${number(sum(limits))}` : '';
    const waiting = sum(stats.backends.map((backend) => backend.queue));
    const tiles = [
      ['accepted', 'Connections', rate(growth('all accepted')), 'a second', rates('all accepted'), `${number(values.get('all accepted'))} so far`, values.get('all accepted')],
      ['served', 'Handed on', rate(growth('all served')), 'a second', rates('all served'), `${number(values.get('all served'))} so far`, values.get('all served')],
      ['refused', 'Not handed on', rate(growth('all refused')), 'a second', rates('all refused'), `${number(values.get('all refused'))} so far`, values.get('all refused')],
      ['sessions', 'Sessions', number(values.get('all sessions')), `now${limit}`, line('all sessions'), waiting ? `${number(waiting)} wait for a server` : 'nobody waits for a server', values.get('all sessions')],
      ['pending', 'Headers awaited', number(sum(stats.rings.map((ring) => ring.pending))), 'now', null, 'from accept to a complete header', sum(stats.rings.map((ring) => ring.pending))],
    ];
    keyed($('#tiles'), tiles, ([name]) => name,
      ([name, label, , , points]) => el('div', { class: 'tile', id: `tile-${name}` }, el('div', { class: 'name' }, label),
        el('div', { class: 'value' }, el('span'), el('small')), el('div', { class: 'more' }),
        points ? spark(points, label, name === 'refused' ? 'bad' : '') : null),
      (node, [, label, value, unit, points, more, exact]) => {
        put($('.value span', node), value);
        put($('.value small', node), unit);
        put($('.more', node), more);
        node.dataset.value = exact;
        if (points) drawSpark($('svg', node), points, label);
      });
  }

  const STATES = { UP: 'up', DOWN: 'down', DRAIN: 'drain', MAINT: 'maint' };
  const state = (word) => el('span', { class: `state ${STATES[word] ?? ''}` }, word);
  const errors = (server) => server['connect-errors'] + server['own-faults'] + server['not-greeted'];

  const SERVER_COLUMNS = [
    ['Server', '', ([, server]) => [server.server, el('span', { class: 'sub mono' }, server.address || '-'), server.why ? el('span', { class: 'sub hot' }, server.why) : null]],
    ['State', 'left', ([, server]) => [state(server.status), el('span', { class: 'sub' }, `${span(server.since)}${server.backup ? ', backup' : ''}`)], undefined, 8.5],
    ['Sessions', '', ([, server]) => count(server.sessions, server['sessions-limit'] !== null && server.sessions >= server['sessions-limit']), 'now', 5.5],
    ['max', 'w1', ([, server]) => count(server['sessions-max']), 'most sessions at a time so far', 4.5],
    ['limit', 'w3', ([, server]) => server['sessions-limit'] === null ? el('span', { class: 'zero' }, '–') : count(server['sessions-limit']), 'connection_limit', 4.8],
    ['last 10 min', 'w2', ([backend, server]) => ({ spark: line(`server ${backend.backend}/${server.server}`), label: `sessions of ${server.server}` }), undefined, 9.5],
    ['new/s', '', ([backend, server]) => rate(growth(`total ${backend.backend}/${server.server}`)), 'new sessions a second', 4.8],
    ['total', 'w1', ([, server]) => count(server['sessions-total']), 'sessions so far', 6.5],
    ['In', 'w3', ([, server]) => bytes(server['bytes-in']), 'from clients, of sessions that have ended', 6.2],
    ['Out', 'w3', ([, server]) => bytes(server['bytes-out']), 'to clients, of sessions that have ended', 6.2],
    ['Connect', 'w2', ([, server]) => server.times['connect-us'].count ? micros(server.times['connect-us'].p50) : '–', 'median time to connect', 6],
    ['Greeting', 'w3', ([, server]) => server.times['greeting-us'].count ? micros(server.times['greeting-us'].p50) : '–', 'median time from there to the greeting', 6.2],
    ['Errors', 'w1', ([, server]) => count(errors(server), true), 'connects that failed, and sessions that were not greeted', 5],
    ['Checks', 'w2', ([, server]) => [el('span', {}, number(server['checks-passed'])), server['checks-failed'] ? [', ', el('span', { class: server.status === 'DOWN' ? 'hot' : null }, `${number(server['checks-failed'])} failed`)] : null].flat(), 'health checks that passed, and that failed', 8.6],
    ['Downs', 'w3', ([, server]) => count(server.downs), 'times that it went down', 5],
    ['Weight', 'w2', ([, server]) => server['weight-now'] === server.weight ? String(server.weight) : `${Math.round(server['weight-now'] * 10) / 10} of ${server.weight}`, 'as it counts now', 6],
  ];
  function drawBackends(stats) {
    const host = $('#backends .body');
    if (!stats.backends.length) return fill(host, el('p', { class: 'empty' }, 'No backend: connections are served by workers of this process.'));
    if ($('.empty', host)) host.replaceChildren();
    keyed(host, stats.backends, (backend) => backend.backend,
      (backend) => el('div', { class: 'group' }, el('div', { class: 'group-head' }, el('h3', {}, backend.backend), el('span', { class: 'about' })), el('div', { class: 'servers' })),
      (node, backend) => {
        const up = backend.servers.filter((server) => server.status === 'UP').length;
        const parts = [`${up} of ${backend.servers.length} servers take new sessions`,
          `queue ${number(backend.queue)} of ${number(backend['queue-limit'])}, at most ${number(backend['queue-max'])}`];
        if (backend['stick-size']) parts.push(`${number(backend['stick-used'])} of ${number(backend['stick-size'])} clients remembered`);
        const failed = backend.nobody + backend['queue-full'] + backend.abandoned;
        if (failed) parts.push(`${number(failed)} found no server`);
        put($('.about', node), parts.join(' · '));
        table($('.servers', node), `Servers of ${backend.backend}`, SERVER_COLUMNS, backend.servers.map((server) => [backend, server]),
          ([, server]) => server.server, ([, server]) => STATES[server.status] ?? '');
      });
  }

  const LISTENER_COLUMNS = [
    ['Listener', '', (one) => [`${one.service}/${one.listener}`, el('span', { class: 'sub mono' }, one.drained ? 'drained by an operator' : one.present ? one.addresses.join(' ') : 'of a former configuration')]],
    ['Expects', 'left w1', (one) => one.present ? [one.haproxy ? 'PROXY header' : 'no header', one.ssl ? ', TLS' : ''].join('') : '–'],
    ['Leads to', 'left w1', (one) => one.backend ? `backend ${one.backend}` : one.worker ? `worker ${one.worker}` : '–'],
    ['new/s', '', (one) => rate(growth(`listener ${one.service}/${one.listener}`)), 'connections a second'],
    ['last 10 min', 'w3', (one) => ({ spark: rates(`listener ${one.service}/${one.listener}`), label: `connections a second at ${one.listener}` })],
    ['Awaited', 'w3', (one) => count(one.pending), 'connections whose header is awaited'],
    ['Accepted', 'w1', (one) => count(one.accepted)],
    ['Handed on', 'w1', (one) => count(one.served), 'to a backend or a worker'],
    ['Not handed on', 'wrap', (one) => count(one.refused, Object.keys(one.reasons).some((reason) => !HARMLESS.has(reason))), 'refused, or gone'],
    ['Mostly because', 'left w2', (one) => {
      const [reason, times] = Object.entries(one.reasons).sort((a, b) => b[1] - a[1])[0] ?? [];
      return reason ? `${reason} (${number(times)})` : el('span', { class: 'zero' }, '–');
    }],
  ];
  function drawListeners(stats) {
    table($('#listeners .body'), 'Listeners', LISTENER_COLUMNS, stats.listeners, (one) => `${one.service}/${one.listener}`);
  }

  function drawReasons(stats) {
    const all = new Map();
    for (const one of stats.listeners) {
      for (const [reason, times] of Object.entries(one.reasons)) all.set(reason, (all.get(reason) ?? 0) + times);
    }
    const host = $('#reasons');
    const reasons = [...all].sort((a, b) => HARMLESS.has(a[0]) - HARMLESS.has(b[0]) || b[1] - a[1]);
    if (!reasons.length) return fill(host, el('p', { class: 'empty' }, 'Nobody has been turned away so far.'));
    if ($('.empty', host)) host.replaceChildren();
    const most = Math.max(...all.values());
    keyed(host, reasons, ([reason]) => reason,
      ([reason]) => el('div', { class: 'reason', 'data-reason': reason }, el('b', {}, reason), el('span', { class: 'count' }),
        bar(0, HARMLESS.has(reason) ? 'off' : 'bad'), WORDS[reason] ? el('span', { class: 'sub' }, WORDS[reason]) : null),
      (node, [reason, times]) => {
        const now = growth(`reason ${reason}`);
        put($('.count', node), `${number(times)}${now ? ` · ${rate(now)}/s` : ''}`);
        node.dataset.count = times;
        $('.bar i', node).style.width = `${times / most * 100}%`;
      });
  }

  function drawRefused(stats) {
    const host = $('#refused .body');
    const wanted = $('#filter').value.trim().toLowerCase();
    const text = (one) => [one.source, one.peer, one.reason, one.diagnosis ?? '', `${one.service}/${one.listener}`, one.sent].join(' ').toLowerCase();
    const shown = stats.refusals.filter((one) => text(one).includes(wanted));
    put($('#refused-count'), stats.refusals.length ? `${shown.length} of the last ${stats.refusals.length} kinds` : '');
    if (!shown.length) return fill(host, el('p', { class: 'empty' }, stats.refusals.length ? 'Nothing of that kind.' : 'Nobody has been refused so far.'));
    if (!$('.who', host)) host.replaceChildren(el('ul', { class: 'who' }));
    const key = (one) => [one.service, one.listener, one.source, one.reason, one.diagnosis].join(' ');
    keyed($('.who', host), shown, key, makeRefusal, (node, one) => {
      put($('.count', node), `${number(one.count)}×`);
      put($('.ago', node), `${span(one.last)} ago`);
      const sent = $('.sent', node);
      const code = $('code', sent);
      const shown = cause(one) ?? one.sent;
      put(code, shown);
      sent.hidden = !shown;
      const detail = $('.detail', node);
      if (detail && !detail.hidden) drawDetail(detail, one);
      node.one = one;
    });
  }
  /** What is known of the TLS that a client came by. */
  function tls(of) {
    if (!of) return null;
    const certificate = of.certificate ? `a certificate${of['certificate-name'] ? ` of ${of['certificate-name']}` : ''}` : null;
    return [of.version ?? (of.ends === 'here' ? 'no session came about' : 'yes'), of.sni ? `for ${of.sni}` : null, certificate, { here: 'up to here', peer: 'up to the peer' }[of.ends]]
      .filter((part) => part).join(', ');
  }
  function makeRefusal(one) {
    const button = el('button', { type: 'button', 'aria-expanded': 'false' },
      el('span', { class: 'source mono' }, one.source),
      el('span', { class: 'why' }, el('b', {}, one.reason), one.diagnosis ? el('span', { class: 'tag' }, one.diagnosis) : null, ` at ${one.service}/${one.listener}`),
      el('span', { class: 'count' }), el('span', { class: 'ago' }),
      el('span', { class: 'sent' }, one.reason === 'tls-failed' ? 'because ' : 'sent ', el('code')));
    const detail = el('dl', { class: 'detail', hidden: '' });
    const node = el('li', {}, button, detail);
    button.addEventListener('click', () => {
      detail.hidden = !detail.hidden;
      button.setAttribute('aria-expanded', String(!detail.hidden));
      drawDetail(detail, node.one);
    });
    return node;
  }
  function drawDetail(detail, one) {
    const lines = [
      ['Why', WORDS[one.reason] ?? 'the header breaks a rule of the protocol'], ['What to do', remedy(one)],
      ['Peer', one.peer], ['TLS', tls(one.tls)], ['Began', `${span(one.first)} ago`], ['Sent', one.sent || 'nothing that was read'], ['In hex', one.hex], ['In the log', one.text],
    ].filter(([, value]) => value);
    keyed(detail, lines.flatMap(([name, value]) => [[`${name}.`, name, 'dt'], [name, value, 'dd']]), ([key]) => key,
      ([, , kind]) => el(kind, { class: kind === 'dd' ? 'mono' : null }), (node, [, value]) => put(node, value));
  }

  function drawAttention(stats) {
    const items = [];
    const say = (kind, key, title, more = '') => items.push({ kind, key, title, more });
    if (!stats.ready) say('bad', 'ready', 'Not ready:', stats['why-not-ready']);
    if (stats['reload-failed']) say('bad', 'reload', 'The last reload has failed, and the configuration before is still in force:', stats['reload-failed']);
    for (const one of stats.listeners) {
      if (one.drained) say('warn', `drained ${one.service}/${one.listener}`, `Listener ${one.service}/${one.listener} is drained:`, 'an operator has closed it, and its sessions go on');
    }
    for (const backend of stats.backends) {
      const serving = backend.servers.filter((server) => server.status === 'UP' || server.status === 'DRAIN');
      if (!serving.length) say('bad', `none ${backend.backend}`, `Backend ${backend.backend} has no server:`, 'its clients are turned away');
      for (const server of backend.servers) {
        if (server.status === 'DOWN') say('bad', `down ${backend.backend}/${server.server}`, `Server ${backend.backend}/${server.server} has been down for ${span(server.since)}:`, server.why);
      }
      if (backend.queue > 0) say('warn', `queue ${backend.backend}`, `${number(backend.queue)} sessions wait for a place in ${backend.backend}:`, `every server is at its limit; ${number(backend['queue-limit'])} may wait`);
    }
    const late = stats.refusals.filter((one) => one.last < 60 && !HARMLESS.has(one.reason));
    const groups = new Map();
    for (const one of late) {
      // What was recognised stands by itself: a balancer that is missing is not to be one of many scanners.
      const key = `${one.service}/${one.listener}: ${one.reason}${one.diagnosis ? ` (${one.diagnosis})` : ''}`;
      groups.set(key, [...(groups.get(key) ?? []), one]);
    }
    const worst = [...groups].map(([key, all]) => [key, all, sum(all.map((one) => one.count))]).sort((a, b) => b[2] - a[2]);
    for (const [key, all, times] of worst.slice(0, 3)) {
      const sources = [...new Set(all.sort((a, b) => b.count - a.count).map((one) => one.source))];
      const since = span(Math.max(...all.map((one) => one.first)));
      const more = sources.length > 3 ? ` and ${sources.length - 3} more` : '';
      const because = cause(all[0]);
      const advice = because ? `Of the most frequent: ${because}` : all.find((one) => one.advice)?.advice ?? REMEDIES[all[0].reason];
      say('warn', `refused ${key}`, `Refused at ${key}, ${number(times)} ${times === 1 ? 'time' : 'times'} in ${since}.`,
        `${capital(WORDS[all[0].reason] ?? 'the header breaks a rule of the protocol')}. From ${sources.slice(0, 3).join(', ')}${more}.${advice ? ` ${capital(advice)}.` : ''}`);
    }
    if (worst.length > 3) {
      const others = worst.slice(3);
      const reasons = [...new Set(others.map(([, all]) => all[0].reason))];
      say('warn', 'refused others', `Refused for other reasons, ${number(sum(others.map((group) => group[2])))} times:`, `${reasons.slice(0, 5).join(', ')}${reasons.length > 5 ? ` and ${reasons.length - 5} more` : ''}; see below`);
    }
    const counters = { ...stats.counters, 'log-lines-lost': stats['log-lines-lost'] };
    for (const [name, words] of [['cq-overflow', 'turns found a completion queue full'], ['ring-replaced', 'rings had failed and were replaced'],
      ['out-of-resources', 'accepts failed for want of files or memory'], ['lost-in-pool', 'connections were lost by a fault of a worker'],
      ['log-lines-lost', 'log lines were lost'], ['session-out-of-resources', 'sessions ended for want of files, ports or places']]) {
      if (counters[name]) say('warn', name, `${number(counters[name])} ${words}`, 'since the start');
    }
    if (!items.length) say('good', 'nothing', 'Nothing needs attention.', '');
    keyed($('#attention ul'), items, (item) => item.key, () => el('li', {}, el('b'), el('span')), (node, item) => {
      node.className = item.kind;
      put($('b', node), item.title);
      put($('span', node), item.more);
    });
  }

  // ---- latency: time by percentile, both logarithmic, so that the slowest are seen ------------------------------------
  const HIGH = 280, LEFT = 58, TOP = 10, BOTTOM = 30, LABELS = 135, LABEL_HIGH = 15;
  function drawLatency(stats) {
    const host = $('#latency .body');
    const all = stats.latencies;
    if (!all.length) return fill(host, el('p', { class: 'empty' }, 'Nothing has been measured so far.'));
    if (!$('.chart', host)) {
      host.replaceChildren(svg('svg', { class: 'chart', role: 'img' }), el('div', { class: 'numbers' }));
    }
    const wide = Math.max(280, host.clientWidth), right = wide > 600 ? LABELS : 14;
    const nines = Math.min(5, Math.max(2, ...all.map((one) => Math.log10(one.quantiles.count))));
    const times = all.flatMap((one) => one.curve.map(([time]) => time));
    const low = Math.floor(Math.log10(Math.max(1, Math.min(...times)))), high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...times))));
    const x = (share) => LEFT + Math.min(nines, share >= 1 ? nines : -Math.log10(1 - share)) / nines * (wide - LEFT - right);
    const y = (time) => HIGH - BOTTOM - (Math.log10(Math.max(time, 10 ** low)) - low) / (high - low) * (HIGH - TOP - BOTTOM);
    const parts = [];
    for (let decade = low; decade <= high; decade += 1) {
      const at = y(10 ** decade);
      parts.push(svg('line', { class: 'grid', x1: LEFT, x2: wide - right, y1: at, y2: at }));
      parts.push(svg('text', { x: LEFT - 6, y: at + 4, 'text-anchor': 'end' }, micros(10 ** decade).replace('.0', '')));
    }
    for (const [share, label] of [[0, '0'], [0.5, '50 %'], [0.9, '90 %'], [0.99, '99 %'], [0.999, '99.9 %'], [0.9999, '99.99 %'], [0.99999, '99.999 %']]) {
      if (-Math.log10(1 - share) > nines + 1e-9) continue;
      parts.push(svg('line', { class: 'grid', x1: x(share), x2: x(share), y1: TOP, y2: HIGH - BOTTOM }));
      parts.push(svg('text', { x: x(share), y: HIGH - BOTTOM + 18, 'text-anchor': share === 0 ? 'start' : 'middle' }, label));
    }
    all.forEach((one, index) => {
      let before = 0, path = '';
      for (const [time, share] of one.curve) {
        path += `${path ? 'L' : 'M'}${x(before).toFixed(1)},${y(time).toFixed(1)}L${x(share).toFixed(1)},${y(time).toFixed(1)}`;
        before = share;
      }
      parts.push(svg('path', { class: `curve l${index + 1}`, d: path }));
    });
    // Names stand where the lines end, pushed apart where they would meet.
    let free = TOP;
    const ends = all.map((one) => [y(one.curve.at(-1)[0]), one.label]).sort((a, b) => a[0] - b[0]);
    for (const [end, label] of right === LABELS ? ends : []) {
      free = Math.max(free + LABEL_HIGH, end + 4);
      parts.push(svg('text', { class: 'label', x: wide - right + 6, y: free }, label));
    }
    const chart = $('.chart', host);
    for (const [name, value] of [['viewBox', `0 0 ${wide} ${HIGH}`], ['width', wide], ['height', HIGH]]) chart.setAttribute(name, value);
    chart.replaceChildren(...parts);
    chart.setAttribute('aria-label', all.map((one) => `${one.label}: half within ${micros(one.quantiles.p50)}, 99 % within ${micros(one.quantiles.p99)}`).join('; '));
    table($('.numbers', host), 'Latencies', LATENCY_COLUMNS, all.map((one, index) => ({ ...one, index })), (one) => one.name);
  }
  const LATENCY_COLUMNS = [
    ['', '', (one) => [svg('svg', { class: 'swatch chart', viewBox: '0 0 26 8' }, svg('path', { class: `curve l${one.index + 1}`, d: 'M0,4L26,4' })), one.label]],
    ['half', '', (one) => micros(one.quantiles.p50)], ['99 %', '', (one) => micros(one.quantiles.p99)],
    ['99.9 %', 'w1', (one) => micros(one.quantiles['p99.9'])], ['slowest', '', (one) => micros(one.quantiles.max)], ['of', 'w1', (one) => number(one.quantiles.count)],
  ];

  const RING_COLUMNS = [
    ['Ring', '', ([, index]) => String(index)],
    ['Share', 'left', ([ring, , all]) => [bar(all ? ring.accepted / all : 0)]],
    ['', '', ([ring, , all]) => all ? `${(ring.accepted / all * 100).toFixed(0)} %` : '–', 'of all connections'],
    ['Accepted', '', ([ring]) => count(ring.accepted)], ['new/s', '', ([, index]) => rate(growth(`ring ${index}`))],
    ['Turns/s', 'w1', ([, index]) => rate(growth(`turns ${index}`))], ['Awaited', 'w1', ([ring]) => count(ring.pending), 'headers'],
    ['Overflows', 'w1', ([ring]) => count(ring['cq-overflows'], true), 'turns that found the completion queue full'],
    ['Replaced', 'w1', ([ring]) => count(ring.replaced, true), 'times that it had failed'],
  ];
  function drawRings(stats) {
    const all = sum(stats.rings.map((ring) => ring.accepted));
    table($('#rings .body'), 'Rings', RING_COLUMNS, stats.rings.map((ring, index) => [ring, index, all]), ([, index]) => String(index));
  }

  // ---- the turn ------------------------------------------------------------------------------------------------------
  let paused = false, shown = null, seen = 0;
  function draw(stats) {
    shown = stats;
    for (const part of [drawTop, drawAttention, drawTiles, drawBackends, drawListeners, drawReasons, drawRefused, drawLatency, drawRings]) part(stats);
    document.body.dataset.drawn = stats.now;
  }
  async function turn() {
    if (!paused && !document.hidden) {
      try {
        const stats = await load('/stats.json');
        const now = `${stats.pid} ${stats.started}`;
        if (now !== generation) { generation = now; await recall(); }
        remember(stats);
        draw(stats);
        seen = performance.now();
      } catch (error) {
        console.warn(String(error));
      }
    }
    tellAge();
    setTimeout(turn, POLL);
  }
  function tellAge() {
    const age = (performance.now() - seen) / 1000, live = $('#live');
    const stale = !paused && seen > 0 && age > 3;
    live.classList.toggle('stale', stale || seen === 0);
    put(live, paused ? 'paused' : seen === 0 ? 'no answer' : stale ? `no answer for ${span(age)}` : 'live');
  }
  function pause() {
    paused = !paused;
    const button = $('#pause');
    button.setAttribute('aria-pressed', String(paused));
    put(button, paused ? 'Go on' : 'Pause');
    tellAge();
  }
  const THEMES = ['auto', 'light', 'dark'];
  const dark = matchMedia('(prefers-color-scheme: dark)');
  let theme = 'auto';
  try { theme = THEMES.includes(localStorage.theme) ? localStorage.theme : 'auto'; } catch { /* not kept */ }
  function dress() {
    document.documentElement.dataset.theme = theme === 'auto' ? (dark.matches ? 'dark' : 'light') : theme;
    put($('#theme'), `Theme: ${theme}`);
  }
  function nextTheme() {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try { localStorage.theme = theme; } catch { /* not kept */ }
    dress();
  }
  dark.addEventListener('change', dress);
  $('#pause').addEventListener('click', pause);
  $('#theme').addEventListener('click', nextTheme);
  $('#filter').addEventListener('input', () => shown && drawRefused(shown));
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLInputElement) {
      if (event.key === 'Escape') { event.target.value = ''; event.target.blur(); if (shown) drawRefused(shown); }
      return;
    }
    const section = ['backends', 'listeners', 'refusals', 'latency', 'rings'][Number(event.key) - 1];
    if (section) { const node = $(`#${section}`); node.scrollIntoView(); node.focus({ preventScroll: true }); }
    else if (event.key === '/') { event.preventDefault(); $('#filter').focus(); }
    else if (event.key === 'p') pause();
    else if (event.key === 't') nextTheme();
  });
  dress();
  turn();
})();
