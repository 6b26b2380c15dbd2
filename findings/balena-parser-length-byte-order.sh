#!/usr/bin/env bash
# @balena/proxy-protocol-parser builds version 2 headers whose length is in little-endian byte order: 12 is sent as 0c00,
# which other receivers read as 3072 bytes that they wait for.
#
# Package: @balena/proxy-protocol-parser 1.0.2. Seen:
#   length bytes of a header over IPv4: 0c00
#   of one over IPv6: 2400
. "$(dirname "$0")/common"
needs node npm
npm install --silent --ignore-scripts --prefix "$work" @balena/proxy-protocol-parser@1.0.2 >"$work"/log 2>&1 ||
  skip "@balena/proxy-protocol-parser 1.0.2 by npm"
ls "$work"/node_modules/@balena/proxy-protocol-parser "$work"/node_modules/@balena/proxy-protocol-parser/*
