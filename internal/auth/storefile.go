package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/siptunnel/siptunnel/internal/atomicfile"
	"github.com/siptunnel/siptunnel/internal/auth/spake2plus"
)

// The file of a store is JSON, one object:
//
//	version      1
//	secret       32 bytes, base64
//	kdf          {algorithm: "argon2id", time, memory_kib, threads}
//	credentials  {name: {created, rotated, verifiers: [{record, last_used}]}}
//
// A record is 97 bytes, base64: w0, then L.
type storeFile struct {
	Version     int                       `json:"version"`
	Secret      []byte                    `json:"secret"`
	KDF         fileKDF                   `json:"kdf"`
	Credentials map[string]fileCredential `json:"credentials"`
}

type fileKDF struct {
	Algorithm string `json:"algorithm"`
	kdf
}

type fileCredential struct {
	Created   time.Time      `json:"created"`
	Rotated   time.Time      `json:"rotated,omitzero"`
	Verifiers []fileVerifier `json:"verifiers"`
}

type fileVerifier struct {
	Record   []byte    `json:"record"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

const (
	storeVersion = 1
	algorithm    = "argon2id"
	// maxStoreFile is far more than maxCredentials take.
	maxStoreFile = 4 << 20
)

var errNoFile = errors.New("no credential file")

func readStore(path string) (*storeState, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoFile
	}
	if err != nil {
		return nil, fmt.Errorf("credential file: %w", err)
	}
	defer f.Close()
	// The open file is asked, not the path: that may lead elsewhere by now.
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("credential file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("credential file %s: not a regular file", path)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o", ErrUnsafeFile, path, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxStoreFile+1))
	if err != nil {
		return nil, fmt.Errorf("credential file: %w", err)
	}
	st, err := parseStore(b)
	if err != nil {
		return nil, fmt.Errorf("credential file %s: %w; restore it from a backup, or remove it and add the credentials anew", path, err)
	}
	return st, nil
}

func parseStore(b []byte) (*storeState, error) {
	if len(b) > maxStoreFile {
		return nil, fmt.Errorf("longer than %d bytes", maxStoreFile)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var f storeFile
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows its end")
	}
	if f.Version != storeVersion {
		return nil, fmt.Errorf("version %d, this program knows %d", f.Version, storeVersion)
	}
	if f.KDF.Algorithm != algorithm {
		return nil, fmt.Errorf("unknown kdf.algorithm %q", f.KDF.Algorithm)
	}
	if err := f.KDF.check(); err != nil {
		return nil, fmt.Errorf("kdf: %w", err)
	}
	st := &storeState{kdf: f.KDF.kdf, credentials: make(map[string]*credential, len(f.Credentials))}
	if len(f.Secret) != len(st.secret) {
		return nil, fmt.Errorf("secret of %d bytes, want %d", len(f.Secret), len(st.secret))
	}
	copy(st.secret[:], f.Secret)
	if len(f.Credentials) > maxCredentials {
		return nil, ErrTooMany
	}
	for name, fc := range f.Credentials {
		c, err := fc.parse()
		if err == nil && !ValidName(name) {
			err = ErrName
		}
		if err != nil {
			return nil, fmt.Errorf("credential %q: %w", name, err)
		}
		st.credentials[name] = c
	}
	return st, nil
}

func (fc *fileCredential) parse() (*credential, error) {
	if n := len(fc.Verifiers); n < 1 || n > runs {
		return nil, fmt.Errorf("%d verifiers, want 1 or %d", n, runs)
	}
	c := &credential{created: fc.Created, rotated: fc.Rotated}
	for _, fv := range fc.Verifiers {
		record, err := spake2plus.ParseRecord(fv.Record)
		if err != nil {
			return nil, err
		}
		v := &verifier{record: record}
		if !fv.LastUsed.IsZero() {
			v.used.Store(fv.LastUsed.Unix())
			v.recorded.Store(fv.LastUsed.Unix())
		}
		c.verifiers = append(c.verifiers, v)
	}
	return c, nil
}

func (st *storeState) marshal() ([]byte, error) {
	f := storeFile{
		Version:     storeVersion,
		Secret:      st.secret[:],
		KDF:         fileKDF{algorithm, st.kdf},
		Credentials: make(map[string]fileCredential, len(st.credentials)),
	}
	for name, c := range st.credentials {
		fc := fileCredential{Created: c.created, Rotated: c.rotated}
		for _, v := range c.verifiers {
			fc.Verifiers = append(fc.Verifiers, fileVerifier{v.record.Bytes(), unixTime(v.used.Load())})
		}
		f.Credentials[name] = fc
	}
	b, err := json.MarshalIndent(&f, "", "  ")
	return append(b, '\n'), err
}

// writeStore replaces the file: after a crash it has the old or the new content
// whole.
func writeStore(path string, st *storeState) error {
	b, err := st.marshal()
	if err == nil {
		err = atomicfile.Write(path, b)
	}
	if err != nil {
		return fmt.Errorf("credential file: %w", err)
	}
	return nil
}
