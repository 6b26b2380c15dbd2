#!/usr/bin/env bash
# @balena/proxy-protocol-parser builds version 2 headers whose length has its bytes exchanged: 12 is sent as 0c00, in
# which other receivers read 3072 and wait for as many bytes. Its own decoder does not look at the length.
#
# Package: @balena/proxy-protocol-parser 1.0.2. Seen:
#   length of a header over IPv4, 12: 0c00
#   length of a header over IPv6, 36: 2400
#   read by its own decoder: 192.0.2.7
. "$(dirname "$0")/common"
needs node npm
npm install --silent --ignore-scripts --prefix "$work" @balena/proxy-protocol-parser@1.0.2 >"$work"/log 2>&1 ||
  skip "@balena/proxy-protocol-parser 1.0.2 by npm"
cat >"$work"/encode.js <<'END'
const { v2_encode, decode } = require('@balena/proxy-protocol-parser');
const ends = { remoteAddress: '192.0.2.7', remotePort: 5000, localAddress: '192.0.2.1', localPort: 25 };
const four = { ...ends, remoteFamily: 'IPv4' };
const six = { ...four, remoteFamily: 'IPv6', remoteAddress: '2001:db8::7', localAddress: '2001:db8::1' };
console.log(v2_encode(four).subarray(14, 16).toString('hex'));
console.log(v2_encode(six).subarray(14, 16).toString('hex'));
console.log(decode(v2_encode(four)).remoteAddress);
END
{ read -r four; read -r six; read -r own; } < <(cd "$work" && node encode.js 2>&1)

holds "length of a header over IPv4, 12" 0c00 "$four"
holds "length of a header over IPv6, 36" 2400 "$six"
holds "read by its own decoder" 192.0.2.7 "$own"
exit $status
