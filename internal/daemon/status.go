package daemon

import (
	"cmp"
	"os"
	"slices"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// status is the answer of a running daemon.
func (d *daemon) status() admin.DaemonStatus {
	s := admin.DaemonStatus{
		Program: admin.Program{
			Name: name, Version: config.Version(), Protocol: wire.ALPN, PID: os.Getpid(), Started: d.started,
			Runtime: admin.RuntimeNow(),
		},
		Listen:        d.place.listen.String(),
		PublicAddress: d.publicAddress().String(),
		Pin:           d.pin,
		MediaAddress:  d.place.mediaAddress.String(),
		PBX:           d.pbx.Status(),
		Sessions:      []admin.Session{},
		Phones:        []admin.Phone{},
		Trunks:        []admin.Trunk{},
		Calls:         []admin.Call{},
		Counters:      d.counters.Snapshot(),
	}
	s.Relays, s.EndedRelays, s.RelayTotals = d.ledger.Snapshot()
	calls := map[string]int{}
	for _, o := range d.allOffices() {
		id := o.session.ID()
		s.Phones = append(s.Phones, admin.PhonesOf(id, o.side.Phones())...)
		for _, t := range admin.TrunksOf(id, o.side.Trunks()) {
			t.Office = o.session.Credential()
			s.Trunks = append(s.Trunks, t)
		}
		now := admin.CallsOf(id, o.side.Calls())
		s.Calls = append(s.Calls, now...)
		calls[id] = len(now)
	}
	slices.SortFunc(s.Phones, func(a, b admin.Phone) int {
		return cmp.Or(cmp.Compare(a.Session, b.Session), cmp.Compare(a.AOR, b.AOR))
	})
	slices.SortFunc(s.Trunks, func(a, b admin.Trunk) int {
		return cmp.Or(cmp.Compare(a.Office, b.Office), cmp.Compare(a.Name, b.Name))
	})
	slices.SortFunc(s.Calls, func(a, b admin.Call) int { return a.Started.Compare(b.Started) })
	for _, e := range d.server.Sessions() {
		s.Sessions = append(s.Sessions, admin.Session{
			ID: e.ID, Credential: e.Credential, Remote: e.Remote, Since: e.Since, Attached: e.Attached,
			RTTMS: admin.Milliseconds(e.RTT), BytesIn: e.BytesIn,
			Path:     admin.Path{Datagrams: e.Path.Datagrams, RTTMS: admin.Milliseconds(e.Path.RTT), Loss: e.Path.Loss},
			BytesOut: e.BytesOut, Phones: e.Phones, Calls: calls[e.ID],
		})
	}
	return s
}

// sessionsByCredential counts sessions for the list of credentials.
func (d *daemon) sessionsByCredential() map[string]int {
	count := map[string]int{}
	for _, e := range d.server.Sessions() {
		count[e.Credential]++
	}
	return count
}
