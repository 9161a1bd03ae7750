package sipmsg

// ViaParm is one hop of the Via headers (RFC 3261 section 20.42). Its slices
// lie in the received bytes.
type ViaParm struct {
	Transport  []byte // UDP, TCP, TLS, ... as it stands
	Host       []byte // of sent-by; an IPv6 address keeps its brackets
	Port       int    // of sent-by; 0 when absent
	Branch     []byte // nil when absent
	Received   []byte // nil when absent
	HasRPort   bool   // an rport parameter is there, with a value or without
	RPort      int    // its value; 0 when it has none
	Params     []byte // from the first semicolon on
	Value      Span   // this hop alone, without the commas around it
	ParamsSpan Span   // Params; empty at the end of the hop when there are none
}

// parseVia reads the hop at v, which is trimmed of white space.
func parseVia(b []byte, v Span) (via ViaParm, ok bool) {
	via.Value = v
	via.ParamsSpan = Span{v.End, v.End}
	i := v.Start
	for range 2 { // protocol name and version, each with its slash
		for i < v.End && b[i] != '/' && b[i] != ';' {
			i++
		}
		if i >= v.End || b[i] != '/' {
			return via, false
		}
		i++
	}
	i = skipLWS(b, i, v.End)
	start := i
	for i < v.End && isTokenByte(b[i]) {
		i++
	}
	via.Transport = b[start:i]
	host := skipLWS(b, i, v.End)
	if len(via.Transport) == 0 || host == i {
		return via, false
	}
	if i, ok = via.parseSentBy(b, host, v.End); !ok {
		return via, false
	}
	if i < v.End {
		via.ParamsSpan.Start = i
		via.Params = b[i:v.End]
		ok = via.parseParams(b)
	}
	return via, ok
}

// parseSentBy reads host and port at b[i:end] and returns the offset of what
// follows them: a semicolon or the end.
func (via *ViaParm) parseSentBy(b []byte, i, end int) (next int, ok bool) {
	start := i
	if i < end && b[i] == '[' {
		for i < end && b[i] != ']' {
			i++
		}
		if i >= end {
			return i, false
		}
		i++
	} else {
		for i < end && b[i] != ':' && b[i] != ';' && !isLWS(b[i]) {
			i++
		}
	}
	via.Host = b[start:i]
	i = skipLWS(b, i, end)
	if i < end && b[i] == ':' {
		start = skipLWS(b, i+1, end)
		for i = start; i < end && '0' <= b[i] && b[i] <= '9'; {
			i++
		}
		if via.Port, ok = parsePort(b[start:i]); !ok {
			return i, false
		}
		i = skipLWS(b, i, end)
	}
	return i, len(via.Host) > 0 && (i == end || b[i] == ';')
}

func (via *ViaParm) parseParams(b []byte) (ok bool) {
	for i := via.ParamsSpan.Start; ; {
		p, more := nextParam(b, i, via.ParamsSpan.End)
		if !more {
			return true
		}
		i = p.Span.End
		value := b[p.Value.Start:p.Value.End]
		switch name := b[p.Name.Start:p.Name.End]; {
		case via.Branch == nil && equalFold(name, "branch"):
			via.Branch = value
		case via.Received == nil && equalFold(name, "received"):
			via.Received = value
		case !via.HasRPort && equalFold(name, "rport"):
			via.HasRPort = true
			if via.RPort, ok = parsePort(value); !ok {
				return false
			}
		}
	}
}
