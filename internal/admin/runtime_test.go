package admin

import (
	"os"
	"runtime"
	"testing"
)

func TestRuntimeNow(t *testing.T) {
	before := RuntimeNow()
	if before.Goroutines == 0 || before.HeapBytes == 0 {
		t.Errorf("%+v", before)
	}
	if runtime.GOOS != "linux" {
		return
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if now := RuntimeNow(); now.OpenFiles != before.OpenFiles+1 {
		t.Errorf("%d open files, %d before one more", now.OpenFiles, before.OpenFiles)
	}
}
