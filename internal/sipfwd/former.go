package sipfwd

import "time"

// formerUsers are the users that had bindings at a phone's port, until the PBX's
// registrations of them end unless they have been taken back. A request for one of
// them is for a phone that is elsewhere by now: whoever has the port must not get
// it. The zero value is empty, for reading.
type formerUsers map[string]time.Time

// add notes that a binding of user, which the PBX has granted until expires, has
// gone. It is good for nothing when the PBX never did.
func (f *formerUsers) add(user string, expires time.Time) {
	now := time.Now()
	if !expires.After(now) || user == "" {
		return
	}
	if *f == nil {
		*f = make(formerUsers)
	}
	if len(*f) >= maxBindings {
		for u, until := range *f {
			if !until.After(now) || len(*f) >= maxBindings {
				delete(*f, u)
			}
		}
	}
	(*f)[user] = expires
}

func (f formerUsers) has(user string) bool { return f[user].After(time.Now()) }

// formerly are the former users of a phone that has ended.
func (p *pbxPhone) formerly() formerUsers {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.former
	p.former = nil
	return f
}
