-- A Wireshark dissector for KV/1.0, the protocol that protocol.md describes:
--
--     wireshark -X lua_script:docs/kvss.lua docs/figures/kvss-session.pcapng
--
-- It reads lines as kvss does, but knows no verbs: a new one needs no change here. wireshark.md
-- shows how to use it, and what is to be seen. Wireshark 4.0 or later.

local VERSION = "KV/1.0"
local LINE_MAX = 65536 -- bytes of a request, with its LF

local kv = Proto("kv", "KV/1.0")

local f = {
    version = ProtoField.string("kv.version", "Version", base.UNICODE),
    verb = ProtoField.string("kv.verb", "Verb", base.UNICODE),
    key = ProtoField.string("kv.key", "Key", base.UNICODE, "The first argument"),
    value = ProtoField.string("kv.value", "Value", base.UNICODE, "The rest of the line"),
    rest = ProtoField.string("kv.rest", "Not read", base.UNICODE, "What follows a wrong version"),
    status = ProtoField.uint16("kv.status", "Status", base.DEC),
    name = ProtoField.string("kv.name", "Name", base.UNICODE),
    data = ProtoField.string("kv.data", "Data", base.UNICODE),
    response_in = ProtoField.framenum("kv.response_in", "Response in", base.NONE,
        frametype.RESPONSE),
    request_in = ProtoField.framenum("kv.request_in", "Request in", base.NONE,
        frametype.REQUEST),
    time = ProtoField.relative_time("kv.time", "Time since request"),
}
kv.fields = f

local e = {
    version = ProtoExpert.new("kv.bad_version", "A request begins with KV/1.0 and a space",
        expert.group.PROTOCOL, expert.severity.ERROR),
    status = ProtoExpert.new("kv.refused", "The request was not done",
        expert.group.RESPONSE_CODE, expert.severity.NOTE),
    reply = ProtoExpert.new("kv.bad_reply", "A reply begins with three digits and a name",
        expert.group.MALFORMED, expert.severity.ERROR),
    long = ProtoExpert.new("kv.long_line", "A request is longer than 65,536 bytes",
        expert.group.PROTOCOL, expert.severity.ERROR),
    text = ProtoExpert.new("kv.bad_text", "A line is not UTF-8, or has a NUL in it",
        expert.group.MALFORMED, expert.severity.WARN),
}
kv.experts = e

-- UTF-8 without a NUL, RFC 3629, section 4. No byte that begins a character can go on with another;
-- so what is left over, when the characters are taken out by their lengths, was none.
local CHARACTERS = {
    "[\xC2-\xDF][\x80-\xBF]",
    "\xE0[\xA0-\xBF][\x80-\xBF]",
    "[\xE1-\xEC\xEE\xEF][\x80-\xBF][\x80-\xBF]",
    "\xED[\x80-\x9F][\x80-\xBF]",
    "\xF0[\x90-\xBF][\x80-\xBF][\x80-\xBF]",
    "[\xF1-\xF3][\x80-\xBF][\x80-\xBF][\x80-\xBF]",
    "\xF4[\x80-\x8F][\x80-\xBF][\x80-\xBF]",
}

local function is_text(line)
    for _, character in ipairs(CHARACTERS) do line = line:gsub(character, "?") end
    return not line:find("[\0\x80-\xFF]")
end

-- As kvss shows on stderr what clients send: no control character reaches the terminal, and none
-- of the second set (U+0080 to U+009F).
local function shown(line)
    local wide = is_text(line) and not line:find("\xC2[\x80-\x9F]")
    local strange = wide and "[\0-\x1F\x7F\\]" or "[\0-\x1F\x7F-\xFF\\]"
    return (line:gsub(strange, function(byte) return ("\\x%02X"):format(byte:byte()) end))
end

-- Adds the fields between the spaces of a line; the last one is the rest of it. Range and line are
-- the same bytes.
local function add_fields(tree, fields, range, line)
    local from = 1
    for i, field in ipairs(fields) do
        local space = i < #fields and line:find(" ", from, true)
        local len = (space or #line + 1) - from
        if len > 0 then tree:add_packet_field(field, range(from - 1, len), ENC_UTF_8) end
        if not space then return end
        from = space + 1
    end
end

local function add_request(tree, range, line)
    if line:match("^[^ ]*") ~= VERSION then
        tree:add_proto_expert_info(e.version)
        add_fields(tree, { f.version, f.rest }, range, line)
        return
    end
    add_fields(tree, { f.version, f.verb, f.key, f.value }, range, line)
    if range:len() > LINE_MAX then tree:add_proto_expert_info(e.long) end
end

-- The code of a reply, or nil.
local function reply_status(line)
    return tonumber((line .. " "):match("^(%d%d%d) [A-Z_]+ "))
end

local function add_reply(tree, range, line)
    local status = reply_status(line)
    if not status then
        tree:add_proto_expert_info(e.reply)
        return
    end
    tree:add(f.status, range(0, 3), status)
    add_fields(tree, { f.name, f.data }, range(4), line:sub(5))
    if status >= 400 then tree:add_proto_expert_info(e.status, line) end
end

-- Who answers whom: a reply is for the oldest request of its connection that has none. That is
-- noted on the first pass over the packets, when they come in their order, as an exchange for both
-- lines; it is found again by the frame, and by which of its lines it is.
--
-- A connection is known by its two ends. (tcp.stream would tell one from the next with the same
-- ends, but on the first of two passes there are no fields yet.)
local waiting, exchanges -- by connection: exchanges without a reply; by frame: those of its lines

function kv.init()
    waiting, exchanges = {}, {}
end

local function connection_queue(pinfo, is_request)
    local from = ("%s:%d"):format(tostring(pinfo.src), pinfo.src_port)
    local to = ("%s:%d"):format(tostring(pinfo.dst), pinfo.dst_port)
    local connection = is_request and from .. " " .. to or to .. " " .. from
    waiting[connection] = waiting[connection] or { first = 1, last = 0 }
    return waiting[connection]
end

local function exchange_begin(queue, pinfo)
    local exchange = { request = pinfo.number, asked = pinfo.rel_ts }
    queue.last = queue.last + 1
    queue[queue.last] = exchange
    return exchange
end

-- 100 is a message and 503 comes unasked. Nil, too, if the request came before the capture began.
local function exchange_end(queue, pinfo, status)
    local exchange = queue[queue.first]
    if status == 100 or status == 503 or not exchange then return nil end
    queue[queue.first] = nil
    queue.first = queue.first + 1
    exchange.reply, exchange.answered = pinfo.number, pinfo.rel_ts
    return exchange
end

local function exchange_of(pinfo, number, is_request, line)
    local frame = exchanges[pinfo.number] or {}
    exchanges[pinfo.number] = frame
    if pinfo.visited then return frame[number] end
    local queue = connection_queue(pinfo, is_request)
    if is_request then
        frame[number] = exchange_begin(queue, pinfo)
    else
        frame[number] = exchange_end(queue, pinfo, reply_status(line))
    end
    return frame[number]
end

local function add_exchange(tree, exchange, is_request)
    if is_request and exchange.reply then
        tree:add(f.response_in, exchange.reply):set_generated()
    elseif not is_request then
        local seconds, fraction = math.modf(exchange.answered - exchange.asked)
        tree:add(f.request_in, exchange.request):set_generated()
        tree:add(f.time, NSTime.new(seconds, math.floor(fraction * 1e9 + 0.5))):set_generated()
    end
end

-- How many lines of this packet came before. What is private to a packet is forgotten with it.
local function count_line(pinfo)
    local before = tonumber(pinfo.private.kv_lines or "0")
    pinfo.private.kv_lines = tostring(before + 1)
    return before
end

local function dissect_line(range, pinfo, tree, is_request)
    local line = range:raw():gsub("\n$", "")
    if is_request then line = line:gsub("\r$", "") end
    local before = count_line(pinfo)
    local what = shown(line)
    local short = is_request and what:gsub("^KV/1%.0 ", "") or what
    if before == 0 then
        pinfo.cols.protocol = "KV"
        pinfo.cols.info = short
    else
        pinfo.cols.info:append(" | " .. short)
    end
    local kind = is_request and "request" or "reply"
    local item = tree:add(kv, range):set_text(("KV/1.0 %s: %s"):format(kind, short))
    if is_request then add_request(item, range, line) else add_reply(item, range, line) end
    if not is_text(line) then item:add_proto_expert_info(e.text) end
    local exchange = exchange_of(pinfo, before + 1, is_request, line)
    if exchange then add_exchange(item, exchange, is_request) end
end

-- A segment may hold several lines, or end in the middle of one: then TCP is asked to come again
-- when there is more, with all of that line. If it can't, a part has to do.
function kv.dissector(tvb, pinfo, tree)
    local bytes, from = tvb:raw(), 1
    local is_request = pinfo.dst_port == pinfo.match_uint
    while from <= #bytes do
        local lf = bytes:find("\n", from, true)
        if not lf and pinfo.can_desegment > 0 then
            pinfo.desegment_offset = from - 1
            pinfo.desegment_len = DESEGMENT_ONE_MORE_SEGMENT
            return
        end
        local to = lf or #bytes
        dissect_line(tvb(from - 1, to - from + 1), pinfo, tree, is_request)
        from = to + 1
    end
end

local tcp_port = DissectorTable.get("tcp.port")
kv.prefs.ports = Pref.range("TCP ports", "9000", "The ports that servers listen on", 65535)
local ports = kv.prefs.ports
tcp_port:add(ports, kv)

function kv.prefs_changed()
    tcp_port:remove(ports, kv)
    ports = kv.prefs.ports
    tcp_port:add(ports, kv)
end
