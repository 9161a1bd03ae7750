package deps

import (
	_ "filippo.io/nistec"
	_ "github.com/alecthomas/kong"
	_ "github.com/emiago/sipgo"
	_ "github.com/emiago/sipgo/sip"
	_ "github.com/hashicorp/yamux"
	_ "github.com/icholy/digest"
	_ "github.com/pion/rtcp"
	_ "github.com/pion/rtp"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "go.uber.org/zap"
	_ "go.uber.org/zap/zaptest"
	_ "go.uber.org/zap/zaptest/observer"
	_ "go.yaml.in/yaml/v3"
	_ "golang.org/x/crypto/argon2"
	_ "golang.org/x/crypto/cryptobyte"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/term"
)
