package sipmsg

// param is one parameter of a ";a=b;c" list. Span runs from its semicolon to
// the next one; Value is empty at the end of the name when there is none.
type param struct{ Span, Name, Value Span }

// nextParam returns the first parameter of b[i:end], which begins at a
// semicolon or at the white space before it. Empty parameters are skipped.
func nextParam(b []byte, i, end int) (p param, ok bool) {
	for {
		i = skipLWS(b, i, end)
		if i >= end {
			return param{}, false
		}
		p.Span.Start = i
		if b[i] == ';' {
			i = skipLWS(b, i+1, end)
		}
		if i < end && b[i] != ';' {
			break
		}
	}
	p.Name.Start = i
	for i < end && b[i] != ';' && b[i] != '=' {
		i++
	}
	p.Name.End = i
	p.Name = trim(b, p.Name)
	p.Value = Span{p.Name.End, p.Name.End}
	if i < end && b[i] == '=' {
		i = skipLWS(b, i+1, end)
		p.Value.Start = i
		for i < end && b[i] != ';' {
			if b[i] != '"' {
				i++
			} else if i = skipQuoted(b, i, end); i < 0 {
				i = end
			}
		}
		p.Value.End = i
		p.Value = trim(b, p.Value)
	}
	p.Span.End = i
	return p, true
}

// findParam returns the first parameter of b[s] with that name.
func findParam(b []byte, s Span, name string) (p param, ok bool) {
	for i := s.Start; ; i = p.Span.End {
		if p, ok = nextParam(b, i, s.End); !ok {
			return param{}, false
		}
		if equalFold(b[p.Name.Start:p.Name.End], name) {
			return p, true
		}
	}
}

// CutParam takes the first parameter off a ";a=b;c" list, as [URI.Params],
// [Addr.Params] and [ViaParm.Params] are. The value is as it stands, with its
// quotes when it has any, and empty when the parameter has none. ok is false
// when there is no parameter left.
func CutParam(params []byte) (name, value, rest []byte, ok bool) {
	p, ok := nextParam(params, 0, len(params))
	if !ok {
		return nil, nil, nil, false
	}
	return params[p.Name.Start:p.Name.End], params[p.Value.Start:p.Value.End], params[p.Span.End:], true
}

// Param returns the value of the first parameter with that name, in any case.
// The value is as it stands, with its quotes when it has any; ok tells a
// parameter without a value from one that is absent.
func Param(params []byte, name string) (value []byte, ok bool) {
	p, ok := findParam(params, Span{0, len(params)}, name)
	if !ok {
		return nil, false
	}
	return params[p.Value.Start:p.Value.End], true
}
