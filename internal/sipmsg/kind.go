package sipmsg

// Kind is the kind of a header field, whatever the case or form (long or
// compact) of its name.
type Kind uint8

// The kinds that a forwarder has a use for; the zero value is every other one.
const (
	Other Kind = iota
	Allow
	Authorization
	CallID
	Contact
	ContentEncoding
	ContentLength
	ContentType
	CSeq
	Event
	Expires
	From
	MaxForwards
	MinExpires
	Path
	ProxyAuthenticate
	ProxyAuthorization
	ProxyRequire
	RAck
	RecordRoute
	ReferredBy
	ReferTo
	Replaces
	Require
	RetryAfter
	Route
	RSeq
	Server
	ServiceRoute
	SessionExpires
	SubscriptionState
	Supported
	To
	UserAgent
	Via
	WWWAuthenticate
	numKinds
)

// kindNames holds the long and the compact name of each kind (RFC 3261 section
// 7.3.3 and the extensions that registered one).
var kindNames = [numKinds]struct {
	long    string
	compact byte
}{
	Allow:              {"Allow", 0},
	Authorization:      {"Authorization", 0},
	CallID:             {"Call-ID", 'i'},
	Contact:            {"Contact", 'm'},
	ContentEncoding:    {"Content-Encoding", 'e'},
	ContentLength:      {"Content-Length", 'l'},
	ContentType:        {"Content-Type", 'c'},
	CSeq:               {"CSeq", 0},
	Event:              {"Event", 'o'},
	Expires:            {"Expires", 0},
	From:               {"From", 'f'},
	MaxForwards:        {"Max-Forwards", 0},
	MinExpires:         {"Min-Expires", 0},
	Path:               {"Path", 0},
	ProxyAuthenticate:  {"Proxy-Authenticate", 0},
	ProxyAuthorization: {"Proxy-Authorization", 0},
	ProxyRequire:       {"Proxy-Require", 0},
	RAck:               {"RAck", 0},
	RecordRoute:        {"Record-Route", 0},
	ReferredBy:         {"Referred-By", 'b'},
	ReferTo:            {"Refer-To", 'r'},
	Replaces:           {"Replaces", 0},
	Require:            {"Require", 0},
	RetryAfter:         {"Retry-After", 0},
	Route:              {"Route", 0},
	RSeq:               {"RSeq", 0},
	Server:             {"Server", 0},
	ServiceRoute:       {"Service-Route", 0},
	SessionExpires:     {"Session-Expires", 'x'},
	SubscriptionState:  {"Subscription-State", 0},
	Supported:          {"Supported", 'k'},
	To:                 {"To", 't'},
	UserAgent:          {"User-Agent", 0},
	Via:                {"Via", 'v'},
	WWWAuthenticate:    {"WWW-Authenticate", 0},
}

// kindsByLength lists the kinds by the length of their long name, so that a
// lookup compares few names.
var kindsByLength = [...][]Kind{
	2:  {To},
	3:  {Via},
	4:  {From, CSeq, Path, RAck, RSeq},
	5:  {Route, Allow, Event},
	6:  {Server},
	7:  {Contact, CallID, Expires, Require},
	8:  {ReferTo, Replaces},
	9:  {Supported},
	10: {UserAgent},
	11: {MinExpires, ReferredBy, RetryAfter},
	12: {MaxForwards, ContentType, RecordRoute},
	13: {Authorization, ProxyRequire, ServiceRoute},
	14: {ContentLength},
	15: {SessionExpires},
	16: {ContentEncoding, WWWAuthenticate},
	18: {ProxyAuthenticate, SubscriptionState},
	19: {ProxyAuthorization},
}

// kindOf returns the kind of the header that is named name.
func kindOf(name []byte) Kind {
	if len(name) == 1 {
		return compactKind(name[0])
	}
	if len(name) >= len(kindsByLength) {
		return Other
	}
	for _, k := range kindsByLength[len(name)] {
		if equalFold(name, kindNames[k].long) {
			return k
		}
	}
	return Other
}

func compactKind(c byte) Kind {
	switch lower(c) {
	case 'b':
		return ReferredBy
	case 'c':
		return ContentType
	case 'e':
		return ContentEncoding
	case 'f':
		return From
	case 'i':
		return CallID
	case 'k':
		return Supported
	case 'l':
		return ContentLength
	case 'm':
		return Contact
	case 'o':
		return Event
	case 'r':
		return ReferTo
	case 't':
		return To
	case 'v':
		return Via
	case 'x':
		return SessionExpires
	}
	return Other
}

// String returns the long name of the header, or "Other".
func (k Kind) String() string {
	if k == Other || k >= numKinds {
		return "Other"
	}
	return kindNames[k].long
}
