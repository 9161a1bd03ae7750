package sipmsg

import (
	"bytes"
	"testing"
)

// TestNoAllocations shows that a reused Message and destination allocate
// nothing, whatever the message and its edits.
func TestNoAllocations(t *testing.T) {
	for name, msg := range allTestdata(t) {
		var m Message
		var dst []byte
		f := newForwarder()
		run := func() {
			if err := m.Parse(msg); err != nil {
				t.Fatal(err)
			}
			read(&m)
			dst = f.forward(&m, dst[:0])
			m.ResetEdits()
			m.PopVia()
			dst = m.AppendTo(dst[:0])
		}
		run() // the tables grow
		if n := testing.AllocsPerRun(20, run); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// read calls what reads a message.
func read(m *Message) (n int) {
	_, method := m.CSeq()
	for _, b := range [][]byte{m.Method(), method, m.RequestURI(), m.Reason(), m.CallID(), m.FromTag(),
		m.ToTag(), m.FromURI(), m.ToURI(), m.ContentType(), m.Body()} {
		n += len(b)
	}
	m.MaxForwards()
	m.Expires()
	m.NamedValue("Max-Forwards")
	m.NamedValue("X-Unknown")
	for it := m.Values(Via); it.Next(); {
		via, _ := it.Via()
		n += via.Port
	}
	for it := m.Values(Contact); it.Next(); {
		a := it.Addr()
		u, _ := ParseURI(a.URI)
		v, _ := Param(a.Params, "expires")
		expires, _ := ParseSeconds(v)
		n += u.Port + expires
	}
	return n
}

func TestFramerNoAllocations(t *testing.T) {
	f := NewFramer(&repeater{data: bytes.Repeat(readTestdata(t, "yealink-t46u-invite.sip"), 3)})
	run := func() {
		if _, err := f.Next(); err != nil {
			t.Fatal(err)
		}
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
