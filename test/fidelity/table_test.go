package fidelity

// verdict says what becomes of a message of a corpus. Without a code it comes
// out with the edits of the table.
type verdict struct {
	code     int      // of the answer, where it goes no further; -1: none
	headers  []string // of that answer
	dropped  bool     // a response that goes no further
	noEnd    bool     // incomplete: a stream waits for what is missing
	noLength bool     // its length cannot be told on a stream: 400, and the connection ends
	why      string
}

// complete are the corpora that have a verdict for each message.
var complete = map[string]bool{"rfc4475": true, "rfc5118": true}

var verdicts = map[string]map[string]verdict{
	"rfc4475": {
		// 3.1.1 valid messages
		"wsinv":      {code: 481, why: "fine in all of its oddities, but SDP in a dialog that nobody has begun; odd/whitespace in testdata is the same without a To tag"},
		"intmeth":    {why: "every character that a method, a user and a token may have"},
		"esc01":      {why: "escapes are not looked into"},
		"escnull":    {why: "%00 is three characters here"},
		"esc02":      {why: "% in a method is no escape"},
		"lwsdisp":    {why: "no space between display name and bracket"},
		"longreq":    {why: "long values in every place"},
		"dblreq":     {why: "what lies behind the body of a datagram is cut off (RFC 3261 section 18.3)"},
		"semiuri":    {why: "a semicolon in the user part"},
		"transports": {why: "unknown transports in Via"},
		"mpart01":    {why: "binary parts"},
		"unreason":   {why: "a reason phrase beyond ASCII"},
		"noreason":   {dropped: true, why: "100 is hop by hop"},
		// 3.1.2 invalid messages
		"badinv01":   {why: "empty parameters and a hop that is none, behind a good one: not read here"},
		"clerr":      {code: 400, noEnd: true, why: "body shorter than its Content-Length"},
		"ncl":        {code: 400, noLength: true, why: "negative Content-Length"},
		"scalar02":   {code: 400, why: "CSeq above 2^32-1; Max-Forwards above 255 alone would pass as 255"},
		"scalarlg":   {dropped: true, why: "the same in a response"},
		"quotbal":    {code: 400, why: "the quote in To never ends"},
		"ltgtruri":   {code: 400, why: "brackets around the Request-URI"},
		"lwsruri":    {code: 400, why: "white space in the Request-URI"},
		"lwsstart":   {code: 400, why: "two spaces in the request line"},
		"trws":       {why: "spaces behind the version: an element may accept them"},
		"escruri":    {why: "headers in the Request-URI are the callee's business"},
		"baddate":    {why: "Date is not read"},
		"regbadct":   {why: "a Contact that lacks its brackets gets them: 3.1.2.13 lets an element infer them"},
		"badaspec":   {why: "white space inside of brackets in To"},
		"baddn":      {code: 400, noEnd: true, why: "this copy lacks the empty line; an unquoted comma in From alone would pass"},
		"badvers":    {code: 505, why: "SIP/7.0"},
		"mismatch01": {code: 400, why: "CSeq has another method"},
		"mismatch02": {code: 400, why: "CSeq has another method, and the request line an unknown one"},
		"bigcode":    {dropped: true, why: "a status beyond 699"},
		// 3.2 transaction layer
		"badbranch": {why: "a branch of nothing but the cookie"},
		// 3.3 application layer
		"insuf":    {code: -1, why: "no From, To, Call-ID: nothing to make a response from"},
		"unkscm":   {why: "the next hop is the PBX whatever the scheme"},
		"novelsc":  {why: "the same"},
		"unksm2":   {why: "other schemes in To, From and Contact are the registrar's business"},
		"bext01":   {code: 420, headers: []string{"Unsupported: noProxiesSupportThis, norDoAnyProxiesSupportThis"}, why: "Proxy-Require (RFC 3261 section 16.3)"},
		"invut":    {why: "an unknown type of body"},
		"regaut01": {why: "an unknown scheme of authorization"},
		"multi01":  {code: 400, why: "CSeq, Call-ID, To, From, Max-Forwards twice"},
		"mcl01":    {code: 400, noLength: true, why: "two Content-Lengths that differ"},
		"bcast":    {why: "a broadcast address in a Via below ours"},
		"zeromf":   {code: 483, why: "Max-Forwards: 0, and addressed to somebody else"},
		"cparam01": {why: "a parameter without brackets belongs to the header"},
		"cparam02": {why: "and within them to the URI"},
		"regescrt": {why: "headers in a Contact"},
		"sdp01":    {why: "an Accept that leaves nothing"},
		// 3.4 backward compatibility
		"inv2543": {noLength: true, why: "no branch, Max-Forwards, From tag; no Content-Length, which a stream must have (RFC 3261 section 20.14)"},
	},
	"rfc5118": {
		"ipv6-good":                     {why: "4.1"},
		"ipv6-bad":                      {why: "4.2: the Request-URI is no address, but the next hop is the PBX whatever it says"},
		"port-ambiguous":                {why: "4.3: all of it is the address"},
		"port-unambiguous":              {why: "4.4"},
		"via-received-param-with-delim": {why: "4.5: received is written anew"},
		"via-received-param-no-delim":   {why: "4.5"},
		"ipv6-in-sdp":                   {why: "4.6"},
		"mult-ip-in-header":             {why: "4.7"},
		"mult-ip-in-sdp":                {why: "4.8"},
		"ipv4-mapped-ipv6":              {why: "4.9"},
		"ipv6-bug-abnf-3-colons":        {why: "4.10: be liberal"},
		"ipv6-correct-abnf-2-colons":    {why: "4.10"},
	},
	// Some copies are damaged: bodies that are shorter than they were, headers
	// without an end.
	"sip-phones": {
		"npm-200ok":                   {dropped: true, noEnd: true, why: "body shorter than its Content-Length"},
		"npm-invite-compact":          {code: 400, noEnd: true, why: "body shorter than its Content-Length"},
		"npm-invite-tls":              {code: 400, noEnd: true, why: "body shorter than its Content-Length"},
		"npm-invite":                  {code: 400, noEnd: true, why: "body shorter than its Content-Length"},
		"npm-siprec":                  {code: 400, noEnd: true, why: "body shorter than its Content-Length"},
		"npm-siprec2":                 {code: 400, noEnd: true, why: "body shorter than its Content-Length"},
		"npm-siprec3":                 {code: 400, noEnd: true, why: "body shorter than its Content-Length"},
		"npm-options-carriage-return": {code: 400, noEnd: true, why: "no empty line behind the header"},
	},
}
