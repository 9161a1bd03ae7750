package sipfwd

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestAlarms arms and stops at random, also from what an alarm runs, and compares when
// each goes off with what was asked for.
func TestAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		a := alarms{mu: &mu, began: time.Now()}
		random := rand.New(rand.NewPCG(1, 2))
		var slots [30]slot
		var due [len(slots)]time.Time // zero: never
		fired, act := 0, func() {}
		arm := func(i int) {
			d := time.Duration(1+random.IntN(5000)) * time.Millisecond
			due[i] = time.Now().Add(d)
			at := due[i]
			a.arm(&slots[i], d, func() {
				if due[i] != at || time.Now() != at {
					t.Errorf("slot %d went off at %v, due at %v, armed for %v", i, time.Now(), due[i], at)
				}
				due[i] = time.Time{}
				fired++
				act()
			})
		}
		act = func() {
			switch i := random.IntN(len(slots)); random.IntN(3) {
			case 0:
				arm(i)
			case 1:
				slots[i].stop()
				due[i] = time.Time{}
			}
		}
		for range 3000 {
			mu.Lock()
			act()
			pause := time.Duration(random.IntN(300)) * time.Millisecond
			mu.Unlock()
			time.Sleep(pause)
			synctest.Wait()
			mu.Lock()
			for i := range slots {
				if !due[i].IsZero() && due[i].Before(time.Now()) {
					t.Fatalf("slot %d has not gone off at %v", i, due[i])
				}
			}
			mu.Unlock()
		}
		if fired < 500 {
			t.Errorf("%d alarms went off", fired)
		}
		for i := range slots {
			slots[i].stop()
			due[i] = time.Time{}
		}
		if len(a.queue) != 0 || a.timer.Stop() {
			t.Errorf("%d alarms, or the timer, go on without any slot", len(a.queue))
		}
	})
}

// TestAlarmsThatStopEachOther: of two that are due at once, the first stops the second.
func TestAlarmsThatStopEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		a := alarms{mu: &mu, began: time.Now()}
		var one, two slot
		ran := 0
		mu.Lock()
		a.arm(&one, time.Second, func() { ran++; two.stop() })
		a.arm(&two, time.Second, func() { ran++; one.stop() })
		mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if ran != 1 {
			t.Errorf("%d ran", ran)
		}
	})
}
